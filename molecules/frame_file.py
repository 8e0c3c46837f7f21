"""Frames of a file as read, and what all kinds of files have in common: boxes, times, which atoms are kept.

Shapes: T frames, M atoms of the file, N atoms of the peptide; boxes (T, 3, 3) have vectors as rows.
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK = 500  # frames that are read at once: solvent is left out of each


@dataclass(frozen=True, kw_only=True)
class FrameFile:
    """Frames of one file in order of time, solvent left out.

    `structure`: PDB text of the peptide as the file names and orders its atoms, None where it has no names. `box`: None
    where it has none. `torn`: why reading ended early, empty if it did not.

    Shape: positions (T, N, 3), box (T, 3, 3). Units: nm where the format has a unit, else as in the file; ps.
    """

    path: Path
    positions: NDArray[Any]
    box: NDArray[np.float64] | None = None
    spacing_ps: float | None = None
    structure: str | None = None
    torn: str = ""


class WrongAtoms(ValueError):
    """A sound file of something else."""


@dataclass(frozen=True)
class Selection:
    """Atoms to keep: those of a peptide of `n_atoms`, read from the structure file called `pdb`, which has `n_file`.

    `file_atoms`: their indices in that file, None where it lacks some of them.
    """

    pdb: str
    n_atoms: int
    n_file: int
    file_atoms: NDArray[np.int64] | None

    def of(self, count: int, name: str) -> NDArray[np.int64] | None:
        """Return the indices to keep of the `count` atoms of the file `name`, None for all. Raises: WrongAtoms."""
        kept = self.file_atoms
        if kept is not None and self.fits(count):
            kept = np.argsort(np.argsort(kept)) if count == self.n_atoms else kept
            return None if len(kept) == count and (np.diff(kept) == 1).all() else kept
        if count == self.n_atoms:
            return None
        hint = (
            "give as pdb= the structure of the whole system (water and ions are left out), or write the peptide alone"
            if count > self.n_atoms
            else "give as pdb= the structure that it was written with, all hydrogens present"
        )
        raise WrongAtoms(f"{name} holds {count} atoms, {self.pdb} has {self.n_atoms} atoms: {hint}")

    def fits(self, count: int) -> bool:
        """Return whether a frame of `count` atoms is one of the peptide, or of its system."""
        if count == self.n_atoms:
            return True
        return self.file_atoms is not None and self.n_file > self.n_atoms and count > self.file_atoms.max()


def joined(path: Path, chunks: Sequence[Any], timed: bool, torn: str = "") -> FrameFile:
    """One `FrameFile` of pieces of mdtraj's."""
    boxes = [chunk.unitcell_vectors for chunk in chunks]
    box = None if any(b is None for b in boxes) else np.concatenate(boxes).astype(np.float64)
    if box is not None and not (np.isfinite(box).all() and (np.abs(np.linalg.det(box)) > 1e-6).all()):
        box = None  # zeros, as programs write them without a box
    times = np.concatenate([chunk.time for chunk in chunks]) if timed else np.empty(0)
    positions = np.concatenate([chunk.xyz for chunk in chunks])
    return FrameFile(path=path, positions=positions, box=box, spacing_ps=spacing(times), torn=torn)


def vectors(lengths: NDArray[Any], angles: NDArray[Any]) -> NDArray[np.float64] | None:
    """Box vectors (T, 3, 3) of lengths and angles (T, 3), None where there is no box."""
    from mdtraj.utils import lengths_and_angles_to_box_vectors

    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        return None
    rows = lengths_and_angles_to_box_vectors(*np.asarray(lengths, float).T, *np.asarray(angles, float).T)
    return np.stack(rows, axis=1)


def spacing(times: NDArray[Any]) -> float | None:
    """Usual time between frames (ps), None where the times say nothing."""
    steps = np.diff(np.asarray(times, np.float64))
    usual = float(np.median(steps)) if len(steps) else 0.0
    return usual if usual > 0 else None


def suffix(path: Path) -> str:
    """Ending of a file's name in lower case, `.pdb.gz` as a whole."""
    return "".join(path.suffixes[-2:]).lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


@contextmanager
def plain_name(path: Path) -> Iterator[Path]:
    """A name that mdtraj's readers take: of ASCII letters, with an ending in lower case."""
    ending = {".ent": ".pdb", ".mmcif": ".cif", ".mmcif.gz": ".cif.gz"}.get(suffix(path), suffix(path))
    if str(path).isascii() and path.name.endswith(ending):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, f"frames{ending}")
        link.symlink_to(path.absolute())
        yield link


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what C libraries of trajectories print about sound files, past Python, from the user."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    try:
        with Path(os.devnull).open("wb") as nothing:
            for number in (1, 2):
                os.dup2(nothing.fileno(), number)
        yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
