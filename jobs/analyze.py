"""Observables of an ensemble with error bars, next to reference MD; and free energies between two ensembles."""

from _main import run

if __name__ == "__main__":
    run("analyze", "boltzray.analysis.analyze", "AnalyzeJob", "analyze")
