"""Batches of frames of similar size, cut from the frames of several steps: what is padded is waste."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer]


class Microbatch(NamedTuple):
    """Frames of one batch that go through the network together.

    Shape: peptide (n,); x (Σ 3 N,), flat; energy_kT (n,), NaN where unknown.
    """

    peptide: Integers
    x: NDArray[np.float32]
    energy_kT: NDArray[np.float32]


def cut(n_atoms: Integers, steps: int, constant: str, world: int, rng: np.random.Generator) -> list[Integers]:
    """Frames with `n_atoms` each → the rows of `steps` batches, each in order of size, all of them once.

    One step keeps its frames. More are sorted, cut where frames or atoms are even, and shuffled as batches.
    """
    order = np.argsort(n_atoms, kind="stable")
    if steps == 1:
        return [order]
    done = np.arange(1, len(order) + 1) if constant == "frames" else np.cumsum(n_atoms[order])
    ends = np.searchsorted(done, np.arange(1, steps) * done[-1] / steps)
    ends = ends + (constant == "frames")
    for k in range(len(ends)):  # no worker goes without a frame
        ends[k] = max(ends[k], (ends[k - 1] if k else 0) + world)
    for k in reversed(range(len(ends))):
        ends[k] = min(ends[k], (ends[k + 1] if k + 1 < len(ends) else len(order)) - world)
    batches = np.split(order, ends)
    return [batches[k] for k in rng.permutation(steps)]


def split(rows: Integers, rank: int, world: int, accumulate: int) -> list[Integers]:
    """A worker's rows of a batch in `accumulate` microbatches.

    The batch is in order of size: each worker takes every `world`-th row, so that all get frames of the same sizes.
    """
    microbatches = np.array_split(rows[rank::world], accumulate)
    return [microbatch for microbatch in microbatches if len(microbatch)]


def gather(
    microbatches: Sequence[Integers],
    peptide: Integers,
    n_atoms: Integers,
    starts: Integers,
    values: NDArray[np.float32],
    energy_kT: NDArray[np.float32],
) -> list[Microbatch]:
    """The rows of each microbatch → its frames, out of flat `values` where frame i begins at `starts[i]`."""
    return [
        Microbatch(
            peptide[rows],
            np.concatenate([values[starts[i] : starts[i] + 3 * n_atoms[i]] for i in rows]),
            energy_kT[rows],
        )
        for rows in microbatches
    ]
