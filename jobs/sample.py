"""Draw a weighted ensemble of one peptide."""

from _door import run

from boltzray.evaluation import SampleJob, sample_and_report

if __name__ == "__main__":
    run("sample", SampleJob, sample_and_report)
