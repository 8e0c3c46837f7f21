"""Compare samples with reference MD, and write the report."""

from _door import run

from boltzray.evaluation import EvaluateJob, evaluate

if __name__ == "__main__":
    run("evaluate", EvaluateJob, evaluate)
