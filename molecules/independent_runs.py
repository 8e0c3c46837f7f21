"""Frames of several independent runs, one run after the other: where one ends, and halves that share none.

`run_lengths`: frames of each run, in order; none of them: all frames are one run. Shapes: T frames.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def checked_run_lengths(run_lengths: Sequence[int] | NDArray[Any], n: int) -> tuple[int, ...]:
    """`run_lengths` as integers. Raises: ValueError unless each is 1 or more, and their sum `n`."""
    lengths = np.asarray(run_lengths)
    if lengths.size == 0:
        return ()
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or lengths.min() < 1 or lengths.sum() != n:
        raise ValueError(f"run_lengths is {lengths.tolist()}: give the frames of each run, {n} in all")
    return tuple(int(length) for length in lengths)


def run_lengths_at(rows: NDArray[np.int64], run_lengths: Sequence[int]) -> tuple[int, ...]:
    """Lengths of the runs when only some rows, ascending, are kept; runs without any are gone."""
    counts = np.diff(np.searchsorted(rows, np.cumsum([0, *run_lengths])))
    return tuple(int(count) for count in counts if count)


def split_runs(frames: NDArray[Any], run_lengths: Sequence[int]) -> list[NDArray[Any]]:
    """Frames (T, …) of each run."""
    return np.split(frames, np.cumsum(run_lengths)[:-1].astype(int))


def halfway(n: int, run_lengths: Sequence[int] = (), least: int = 1) -> int:
    """First of `n` frames that belongs to their second half: the first of a run, where both halves keep `least` frames.

    Without such a run it is n // 2.
    """
    starts = [int(start) for start in np.cumsum(run_lengths)[:-1] if least <= start <= n - least]
    return min(starts, key=lambda start: abs(2 * start - n), default=n // 2)
