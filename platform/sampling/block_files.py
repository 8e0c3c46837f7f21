"""Blocks of conformations on disk, some thousand rows a file: a run that was stopped reads them instead of computing.

out/run/draws-00000.npz …                  proposals with their scalars
out/run/smc-000012/part-00000.npz …        particles of SMC
"""

from pathlib import Path
from typing import Any

import numpy as np

from boltzray.molecules.storage import replacing

PART_ROWS = 4096  # of a file: at most so many are computed again after a stop


def blocks_per_part(block_size: int) -> int:
    """Blocks in one file."""
    return max(1, PART_ROWS // block_size)


def part_path(folder: Path, index: int, name: str = "part") -> Path:
    """Path of file `index`."""
    return folder / f"{name}-{index:05d}.npz"


def save_part(path: Path, **arrays: Any) -> None:
    """Write arrays, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load_part(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Read the arrays `names` of a file; the others are not read."""
    with np.load(path) as arrays:
        return {name: arrays[name] for name in names}
