"""Compare samples of one or many peptides with reference MD, and write reports and a table."""

from _door import run

if __name__ == "__main__":
    run("evaluate", "boltzray.campaign", "EvaluateJob", "evaluate")
