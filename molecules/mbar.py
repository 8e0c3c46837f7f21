"""Weights of all frames of a ladder at one temperature: the multistate Bennett acceptance ratio.

Source: Shirts & Chodera 2008, J. Chem. Phys. 129, 124105, through pymbar.
"""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from .replica_exchange import LadderTrajectory

Floats = NDArray[np.float64]

SOLVED_FRAMES = 40_000  # evenly spaced ones, for the free energies; all others are weighted with these


def ladder_free_energies(energy_kT: Floats, temperatures_k: Sequence[float]) -> Floats:
    """Free energies of the rungs, in kT each, that of the lowest zero.

    Shape: energy_kT (T, R), frame by rung, in kT of the lowest temperature -> (R,).
    """
    for name in ("pymbar", "pymbar.timeseries", "pymbar.mbar_solvers"):
        logging.getLogger(name).setLevel(logging.ERROR)  # it advertises JAX at import
    from pymbar import MBAR

    rungs = len(temperatures_k)
    energy = energy_kT[:: max(1, -(-energy_kT.size // SOLVED_FRAMES))]
    reduced = _beta(temperatures_k)[:, None] * energy.T.ravel()
    found = MBAR(reduced, np.full(rungs, len(energy)), solver_protocol="robust")
    free: Floats = found.f_k
    return free


def ladder_log_weights(ladders: Sequence[LadderTrajectory], temperature_k: float) -> tuple[list[Floats], Floats]:
    """Log-weights of each ladder's frames at a temperature, normalised over all of them; and the rungs' free energies.

    Shape: a list of (F, R), (R,). Raises: ValueError for ladders of unequal rungs.
    """
    temperatures_k = ladders[0].temperatures_k
    if any(ladder.temperatures_k != temperatures_k for ladder in ladders):
        raise ValueError("the ladders have different temperatures: give those of one run")
    beta = _beta(temperatures_k)
    free = ladder_free_energies(np.concatenate([ladder.energy_kT for ladder in ladders]), temperatures_k)
    target = temperatures_k[0] / temperature_k
    log_w = [
        -target * u - logsumexp(free - beta * u[..., None], axis=-1) for u in (ladder.energy_kT for ladder in ladders)
    ]
    total = logsumexp(np.concatenate([part.ravel() for part in log_w]))
    return [part - total for part in log_w], free


def _beta(temperatures_k: Sequence[float]) -> Floats:
    """Inverse temperatures in units of that of the lowest rung."""
    return temperatures_k[0] / np.asarray(temperatures_k, dtype=np.float64)
