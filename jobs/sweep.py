"""Compare ways of finetuning a flow to one peptide."""

from _main import run

if __name__ == "__main__":
    run("sweep", "boltzray.sweeping.sweep", "SweepJob", "sweep")
