"""A shipped flow on a peptide that it has never seen, then finetuned to it."""

from _main import run

if __name__ == "__main__":
    run("quickstart", "boltzray.quickstart", "QuickstartJob", "quickstart")
