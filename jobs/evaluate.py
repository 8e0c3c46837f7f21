"""Compare samples with reference MD, and write the report."""

from _door import run

if __name__ == "__main__":
    run("evaluate", "boltzray.evaluation", "EvaluateJob", "evaluate")
