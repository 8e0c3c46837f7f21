"""Mixing of a ladder of replica exchange: rates of swaps, steps between rungs, round trips.

Independent ladders of the same temperatures are counted together. R rungs, E attempts, F frames.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .replica_exchange import LadderTrajectory

Floats = NDArray[np.float64]
Ladders = Sequence[LadderTrajectory]


def common_temperatures_k(ladders: Ladders) -> tuple[float, ...]:
    """Temperatures of the rungs. Raises: ValueError for no ladder, or ladders of several sets of temperatures."""
    found = {ladder.temperatures_k for ladder in ladders}
    if len(found) != 1:
        raise ValueError(f"{len(found)} sets of temperatures: give ladders of one")
    return found.pop()


def rungs(ladder: LadderTrajectory) -> NDArray[np.uint8]:
    """Return the rung of each walker before the first attempt and after each. Shape: (E + 1, R)."""
    return np.argsort(_walkers(ladder), axis=1).astype(np.uint8)  # the inverse of each permutation


def swap_rates(ladders: Ladders) -> Floats:
    """Accepted share of the attempts between rungs r and r + 1; NaN without an attempt. Shape: (R − 1,)."""
    size = len(common_temperatures_k(ladders)) - 1
    tried, swapped = np.zeros(size), np.zeros(size)
    for ladder in ladders:
        changed = np.diff(_walkers(ladder).astype(np.int16), axis=0) != 0
        for r in range(size):
            tried[r] += len(changed[r % 2 :: 2])
            swapped[r] += changed[r % 2 :: 2, r].sum()
    rates: Floats = np.divide(swapped, tried, out=np.full(size, np.nan), where=tried > 0)
    return rates


def rung_transitions(ladders: Ladders) -> Floats:
    """Share of the walkers of rung i that are on rung j one frame later. Shape: (R, R), doubly stochastic."""
    size = len(common_temperatures_k(ladders))
    counts = np.zeros((size, size))
    for ladder in ladders:
        path = rungs(ladder)[:: _attempts_per_frame(ladder)]
        np.add.at(counts, (path[:-1].ravel(), path[1:].ravel()), 1)
    shares: Floats = counts / counts.sum(axis=1, keepdims=True)
    return shares


def relaxation_ps(ladders: Ladders) -> float:
    """Time in which walkers forget their rung, −Δt / ln λ₂; infinite where rungs do not mix.

    λ₂: second eigenvalue of the symmetrised transition matrix. It counts no barrier other than the walk itself.
    Source: Chodera and Shirts 2011 (J. Chem. Phys. 135, 194110), metrics of efficiency.
    """
    matrix = rung_transitions(ladders)
    second = float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[-2])
    if second <= 0:
        return 0.0
    return math.inf if second >= 1 - 1e-12 else -ladders[0].interval_ps / math.log(second)


def round_trips(ladders: Ladders) -> NDArray[np.int64]:
    """Count journeys of all walkers from the lowest rung to rung r and back, for r = 1 … R − 1. Shape: (R − 1,)."""
    size = len(common_temperatures_k(ladders))
    trips = np.zeros(size - 1, dtype=np.int64)
    for ladder in ladders:
        for path in rungs(ladder).T:
            for r in range(1, size):
                ends = path[(path == 0) | (path == r)]
                ends = ends[np.argmax(ends == 0) :] if (ends == 0).any() else ends[:0]
                trips[r - 1] += np.count_nonzero(np.diff(ends.astype(np.int16))) // 2
    return trips


def ladder_time_ns(ladders: Ladders) -> float:
    """Simulated time of all ladders, each counted once and not once a rung."""
    return sum(len(ladder.positions_nm) * ladder.interval_ps for ladder in ladders) / 1000


def _walkers(ladder: LadderTrajectory) -> NDArray[Any]:
    start = np.arange(len(ladder.temperatures_k), dtype=ladder.walkers.dtype)
    return np.concatenate([start[None], ladder.walkers])


def _attempts_per_frame(ladder: LadderTrajectory) -> int:
    return len(ladder.walkers) // len(ladder.positions_nm)
