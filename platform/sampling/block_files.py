"""Blocks of conformations on disk, some thousand rows a file: a run that was stopped reads them instead of computing.

out/run/draws-00000.npz …                  proposals with their scalars
out/run/smc-000012/part-00000.npz …        particles of SMC
"""

from pathlib import Path
from typing import Any

import numpy as np

from boltzray.molecules.storage import BAD_ARCHIVE, DamagedFile, check_seal, sealing, set_aside

from ..runtime.progress import say

PART_ROWS = 4096  # of a file: at most so many are computed again after a stop


def blocks_per_part(block_size: int) -> int:
    """Blocks in one file."""
    return max(1, PART_ROWS // block_size)


def part_path(folder: Path, index: int, name: str = "part") -> Path:
    """Path of file `index`."""
    return folder / f"{name}-{index:05d}.npz"


def save_part(path: Path, **arrays: Any) -> None:
    """Write arrays, whole or not at all, and sealed."""
    with sealing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load_part(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Read the arrays `names` of a file; the others are not read. Raises: DamagedFile, FileNotFoundError."""
    check_seal(path)
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in names}
    except FileNotFoundError:
        raise
    except BAD_ARCHIVE as error:
        raise DamagedFile(f"{path} is damaged: {error}") from None


def has_array(path: Path, name: str) -> bool:
    """Return True if a sound file has an array of this name."""
    with np.load(path) as arrays:
        return name in arrays.files


def has_part(path: Path, rows: int, name: str = "log_q") -> bool:
    """Return True if a file is there whose array `name` has `rows`; a damaged one is set aside, to be made again."""
    try:
        found = len(load_part(path, name)[name])
        if found == rows:
            return True
        reason = f"{path} is damaged: it has {found} rows, not {rows}"
    except FileNotFoundError:
        return False
    except DamagedFile as error:
        reason = str(error)
    say(f"note: {reason}: it is made again (kept as {set_aside(path).name})")
    return False
