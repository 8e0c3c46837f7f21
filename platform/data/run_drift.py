"""Drift of the energies of runs, which tells if they began at equilibrium."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from boltzray.molecules.batched.energy import BatchedEnergy
from boltzray.molecules.convergence import MIN_RUNS, Drift, drift_of
from boltzray.molecules.energy import OpenMMEnergy, only_openmm
from boltzray.molecules.peptide import Peptide

EACH, IN_ALL = 40, 4_000  # frames of a run, and of all, whose energies are computed


def energy_drift(
    peptide: Peptide, runs: Sequence[NDArray[np.float32]], temperature_k: float, forcefield: str
) -> Drift | None:
    """Drift of the energies of runs (T, N, 3) in nm, by some of their frames; None if those do not tell. Units: kT."""
    if len(runs) < MIN_RUNS:
        return None
    each = max(2, min(EACH, IN_ALL // len(runs)))
    some = [run[np.unique(np.linspace(0, len(run) - 1, each).astype(int))] for run in runs]
    positions = np.concatenate(some).astype(np.float64)
    if only_openmm(peptide):
        energy = OpenMMEnergy(peptide, temperature_k, forcefield=forcefield).evaluate(positions, False)
    else:
        energy = BatchedEnergy(peptide, temperature_k, forcefield=forcefield).evaluate_arrays(positions, False)
    if not energy.ok.all():
        return None
    return drift_of(np.split(energy.energy, np.cumsum([len(run) for run in some])[:-1]))
