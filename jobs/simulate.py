"""Molecular dynamics of peptides, written as training shards and reference trajectories."""

from _main import run

if __name__ == "__main__":
    run("simulate", "boltzray.simulation.simulate", "SimulateJob", "simulate")
