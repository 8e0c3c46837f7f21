"""Compare samples of one or many peptides with reference MD, and write reports and a table."""

from _main import run

if __name__ == "__main__":
    run("evaluate", "boltzray.evaluation.evaluate_many", "EvaluateJob", "evaluate")
