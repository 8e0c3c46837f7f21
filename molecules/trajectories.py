"""Frames as other programs leave them: trajectories and arrays; read, not yet checked.

Shapes: T frames, M atoms of the file, N atoms of the peptide.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from glob import has_magic
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .frame_file import CHUNK, FrameFile, Selection, WrongAtoms, joined, plain_name, quiet, suffix
from .named_frames import read_hdf5, read_structures

STREAMS = (".xtc", ".dcd", ".trr", ".nc", ".ncdf", ".netcdf", ".lammpstrj", ".xyz", ".xyz.gz")
STRUCTURES = (".pdb", ".pdb.gz", ".ent", ".gro", ".cif", ".cif.gz", ".mmcif", ".mmcif.gz")
HDF5 = (".h5", ".hdf5")
ARRAYS = (".npy", ".npz")
KINDS = "XTC, DCD, TRR, NetCDF, HDF5, PDB of several models, GRO, mmCIF, LAMMPS, XYZ, .npy or .npz"
POSITION_KEYS = ("positions", "positions_nm", "coords", "coordinates", "xyz", "x")


def frame_paths(frames: str | Sequence[str], home: Path) -> list[Path]:
    """Files that a path, a glob, or a list of them names, those of a glob in natural order (run2 before run10).

    Raises: FileNotFoundError naming what matches nothing.
    """
    found: list[Path] = []
    for name in [frames] if isinstance(frames, str) else frames:
        path = home / Path(name).expanduser()
        if path.is_file():
            found.append(path)
        elif not has_magic(name):
            raise FileNotFoundError(f"no file at {path}: check frames=")
        elif matches := [match for match in _matches(path) if match.is_file()]:
            found += sorted(matches, key=_natural)
        else:
            raise FileNotFoundError(f"no file matches {path}: check frames=")
    return found


def _matches(pattern: Path) -> Iterator[Path]:
    anchor = Path(pattern.anchor)
    return anchor.glob(str(pattern.relative_to(anchor)))


def read_frames(path: Path, selection: Selection) -> FrameFile:
    """Read the frames of a file, of the selected atoms alone.

    Raises: ValueError of one line for a file that holds no frames of this many atoms.
    """
    kind = suffix(path)
    reader = next((read for kinds, read in _READERS if kind in kinds), None)
    if reader is None:
        raise ValueError(f"{path} has a name of no kind of trajectory that is read: give {KINDS}")
    try:
        with plain_name(path) as readable, warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")  # of mdtraj, that netCDF4 would be faster
            return reader(path, readable, selection)
    except WrongAtoms as error:
        raise ValueError(str(error)) from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} holds no conformations that can be read ({reason})") from error


def _read_array(path: Path, readable: Path, selection: Selection) -> FrameFile:
    """An .npy, or the one array of an .npz that is (T, N, 3); (T, 3 N) and one frame (N, 3) are taken, too."""
    if suffix(path) == ".npy":
        arrays = {"": np.load(readable, mmap_mode="r")}
    else:
        with np.load(readable) as archive:
            arrays = {key: archive[key] for key in archive.files if archive[key].dtype.kind in "fiu"}
    shaped = {key: x for key, array in arrays.items() if (x := _as_frames(array, selection)) is not None}
    for preferred in (shaped.keys() & set(POSITION_KEYS), shaped.keys()):
        if len(preferred) == 1:
            x = shaped[next(iter(preferred))]
            kept = selection.of(x.shape[1], path.name)
            return FrameFile(path=path, positions=np.array(x if kept is None else x[:, kept]))
    if shaped:
        raise WrongAtoms(
            f"{path.name} holds several arrays of frames ({', '.join(sorted(shaped))}): write the one to train on "
            "alone, np.savez('frames.npz', positions=…)"
        )
    of_frames = [array for array in arrays.values() if array.ndim == 3 and array.shape[2] == 3]
    if len(of_frames) == 1 and of_frames[0].shape[1]:
        selection.of(of_frames[0].shape[1], path.name)
    shapes = ", ".join(f"{key} {array.shape}".strip() for key, array in arrays.items()) or "nothing"
    raise WrongAtoms(
        f"{path.name} holds positions of shape {shapes}, {selection.pdb} has {selection.n_atoms} atoms: give (frames, "
        "atoms, 3)"
    )


def _as_frames(array: NDArray[Any], selection: Selection) -> NDArray[Any] | None:
    """(T, M, 3) of an array, None where it is none of this peptide."""
    if array.dtype.kind not in "fiu" or not array.size:
        return None
    if array.ndim == 3 and array.shape[2] == 3 and selection.fits(array.shape[1]):
        return array
    if array.ndim == 2 and array.shape[1] == 3 * selection.n_atoms:
        return array.reshape(len(array), -1, 3)
    return array[None] if array.shape == (selection.n_atoms, 3) else None


def _read_stream(path: Path, readable: Path, selection: Selection) -> FrameFile:
    """A trajectory without names of atoms, in chunks."""
    import mdtraj

    with mdtraj.open(str(readable)) as file:
        first = file.read(1)
        count = (first[0] if isinstance(first, tuple) else first).shape[1]
    kept = selection.of(count, path.name)
    topology = mdtraj.Topology()
    residue = topology.add_residue("X", topology.add_chain())
    for _ in range(count):  # mdtraj wants names, which these files have not
        topology.add_atom("X", mdtraj.element.carbon, residue)
    chunks: list[Any] = []
    torn = ""
    for size in (CHUNK, 1):  # a chunk that ends in a torn frame is read again, frame by frame
        skip = sum(map(len, chunks))
        try:
            chunks += mdtraj.iterload(str(readable), chunk=size, top=topology, atom_indices=kept, skip=skip)
            break
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            torn = " ".join(str(error).split()) or type(error).__name__
    if not sum(map(len, chunks)):
        raise ValueError(torn or "it has no frames")
    timed = suffix(path) in (".xtc", ".trr", ".nc", ".ncdf", ".netcdf")
    return joined(path, chunks, timed, torn=torn)


def _natural(path: Path) -> list[Any]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", str(path))]


_READERS = ((ARRAYS, _read_array), (STREAMS, _read_stream), (HDF5, read_hdf5), (STRUCTURES, read_structures))
