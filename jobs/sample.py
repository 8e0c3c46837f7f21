"""Draw a weighted ensemble of one peptide, and write its report."""

from _main import run

if __name__ == "__main__":
    run("sample", "boltzray.evaluation.evaluate", "SampleJob", "sample_and_report")
