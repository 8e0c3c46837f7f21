"""The whole pipeline on one small peptide."""

from _door import run

from boltzray.quickstart import QuickstartJob, quickstart

if __name__ == "__main__":
    run("quickstart", QuickstartJob, quickstart)
