"""Ladders of replica exchange as Markov walks of walkers, whose mixing is known in closed form."""

from collections.abc import Sequence

import numpy as np

from boltzray.molecules.replica_exchange import LadderTrajectory


def ladder(
    rates: Sequence[float], frames: int, seed: int = 0, per_frame: int = 2, n_atoms: int = 1, interval_ps: float = 1.0
) -> LadderTrajectory:
    """A walk in which rungs r and r + 1 swap with probability `rates[r]` at every attempt of their parity.

    Rung r has energies of N(2 r, 1) kT and positions of which coordinate 0 is the walker's number.
    """
    rng, size = np.random.default_rng(seed), len(rates) + 1
    walkers, now = np.empty((frames * per_frame, size), dtype=np.uint8), np.arange(size)
    for attempt in range(len(walkers)):
        for r in range(attempt % 2, size - 1, 2):
            if rng.random() < rates[r]:
                now[[r, r + 1]] = now[[r + 1, r]]
        walkers[attempt] = now
    positions = np.zeros((frames, size, n_atoms, 3), dtype=np.float32)
    positions[..., 0] = walkers[per_frame - 1 :: per_frame, :, None]
    return LadderTrajectory(
        temperatures_k=tuple(310 * (600 / 310) ** (r / (size - 1)) for r in range(size)),
        positions_nm=positions,
        energy_kT=rng.normal(2.0 * np.arange(size), 1.0, size=(frames, size)),
        walkers=walkers,
        interval_ps=interval_ps,
    )
