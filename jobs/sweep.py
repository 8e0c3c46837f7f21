"""Compare ways of finetuning a flow to one peptide."""

from _door import run

if __name__ == "__main__":
    run("sweep", "boltzray.sweeping", "SweepJob", "sweep")
