"""Reference trajectories, PDB files and the published split, looked up by sequence."""

import json
import re
import zipfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .observables import Tica
from .sequences import n_residues
from .storage import replacing

SPLITS = ("train", "val", "test")


def save_reference(path: str | Path, positions_nm: ArrayLike, tica: Tica) -> None:
    """Write a reference trajectory and its TICA, whole or not at all. Shape: (T, N, 3)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:  # a file: savez would change the name
        np.savez_compressed(
            file,
            positions=np.asarray(positions_nm, dtype=np.float32),
            tica_mean=tica.mean,
            tica_projection=tica.projection,
            tica_dim=np.int64(tica.projection.shape[1]),
        )


def load_reference(path: str | Path) -> tuple[NDArray[np.float32], Tica | None]:
    """Positions (T, N, 3) in nm, and the TICA of the file, if it holds one, cut to its `tica_dim`.

    Raises: ValueError when the file is not such an archive.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            positions = np.asarray(archive["positions"], dtype=np.float32)
            tica = None
            if {"tica_mean", "tica_projection"} <= set(archive):
                dim = int(archive["tica_dim"]) if "tica_dim" in archive else None
                tica = Tica(mean=archive["tica_mean"], projection=archive["tica_projection"][:, :dim])
    except FileNotFoundError:
        raise
    except (
        OSError,
        EOFError,
        KeyError,
        ValueError,
        IndexError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(f"{path} is not a reference trajectory ({error}); it needs 'positions' (T, N, 3)") from None
    if positions.ndim != 3 or positions.shape[2] != 3:
        raise ValueError(f"{path}: positions have shape {positions.shape}, expected (T, N, 3)")
    return positions, tica


def find_reference(data_dir: str | Path, sequence: str) -> Path | None:
    """The reference trajectory of a sequence in any split, or None."""
    folder = Path(data_dir) / "trajectories_subsampled"
    for length in dict.fromkeys((n_residues(sequence), len(sequence))):  # caps used to count as letters
        if path := _find(folder, sequence, Path(f"{length}AA", f"{sequence}_subsampled.npz")):
            return path
    return None


def sequences_with_reference(data_dir: str | Path, split: str) -> list[str]:
    """Sequences of a split that have a reference trajectory, short ones first.

    Raises: ValueError when there is none.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown: choose one of {', '.join(SPLITS)}")
    folder = Path(data_dir) / "trajectories_subsampled" / split
    found = {path.stem.removesuffix("_subsampled") for path in folder.glob("*AA/*_subsampled.npz")}
    if not found:
        raise ValueError(f"no reference trajectory below {folder}: make some with jobs/simulate.py, or check data_dir")
    return sorted(found, key=lambda sequence: (n_residues(sequence), sequence))


def find_pdb(data_dir: str | Path, sequence: str) -> Path | None:
    """The PDB file of a sequence in any split, or None."""
    return _find(Path(data_dir) / "pdbs", sequence, Path(f"{sequence}.pdb"))


def _find(folder: Path, sequence: str, tail: Path) -> Path | None:
    check_letters(sequence)
    return next((p for split in SPLITS if (p := folder / split / tail).is_file()), None)


@cache
def _splits() -> dict[str, str]:
    lists = json.loads(Path(__file__).with_name("splits.json").read_text())
    return {s: split for key, split in (("validation", "val"), ("test", "test")) for s in lists[key]}


def published_split(sequence: str) -> str | None:
    """`val` or `test` for the sequences that are never trained on, else None."""
    return _splits().get(sequence)


def check_letters(sequence: str) -> None:
    """Letters, and the hyphens that set caps off (`ACE-A-NME`): it becomes part of a file name."""
    if not re.fullmatch("[A-Za-z]+(-[A-Za-z]+)*", sequence):
        raise ValueError(
            f"sequence {sequence!r} is not a row of one-letter codes with or without caps; use letters and hyphens"
        )
