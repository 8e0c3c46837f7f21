"""Molecular dynamics of peptides, written as training shards and reference trajectories."""

from _door import run

from boltzray.simulation import SimulateJob, simulate

if __name__ == "__main__":
    run("simulate", SimulateJob, simulate)
