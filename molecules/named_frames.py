"""Frames of files that name their atoms: HDF5, and structures of several models.

Such a file says itself which atoms are solvent, and in which order the others are.
"""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openmm import app

from .frame_file import CHUNK, FrameFile, Selection, WrongAtoms, joined, spacing, vectors
from .peptide import Peptide
from .periodic import make_whole

_Name = tuple[str, str, int, int]  # atom, residue, its number, chain


def read_structures(path: Path, readable: Path, selection: Selection) -> FrameFile:
    """Models of a structure file, whose atoms have names."""
    import mdtraj

    options = {"standard_names": False} if ".pdb" in readable.suffixes else {}
    trajectory = mdtraj.load(str(readable), **options)
    names = [(a.name, a.residue.name, a.residue.resSeq, a.residue.chain.index) for a in trajectory.topology.atoms]
    found = joined(path, [trajectory], timed=False)
    structure, kept = _own_structure(path.name, names, found.positions, found.box, selection)
    return replace(found, positions=found.positions if kept is None else found.positions[:, kept], structure=structure)


def read_hdf5(path: Path, readable: Path, selection: Selection) -> FrameFile:
    """The HDF5 of mdtraj, which OpenMM's reporters write, too; read without PyTables, which that would take."""
    import h5py

    with h5py.File(readable) as file:
        if "coordinates" not in file:
            raise WrongAtoms(f"{path.name} has no 'coordinates': of HDF5, mdtraj's kind is read; write XTC or DCD")
        coordinates = file["coordinates"]
        unit = coordinates.attrs.get("units", b"nanometers")
        scale = 0.1 if "angstrom" in (unit.decode() if isinstance(unit, bytes) else str(unit)).lower() else 1
        box = None
        if "cell_lengths" in file and "cell_angles" in file:
            box = vectors(file["cell_lengths"][:] * scale, file["cell_angles"][:])
        names = _hdf5_names(file)
        if names:
            structure, kept = _own_structure(path.name, names, coordinates[:CHUNK] * scale, box, selection)
        else:
            structure, kept = None, selection.of(coordinates.shape[1], path.name)
        times = file["time"][:] if "time" in file else np.empty(0)
        every = slice(None) if kept is None else kept
        parts = [coordinates[i : i + CHUNK][:, every] for i in range(0, len(coordinates), CHUNK)]
    positions = np.concatenate(parts)
    return FrameFile(
        path=path,
        positions=positions if scale == 1 else positions * scale,
        box=box,
        spacing_ps=spacing(times),
        structure=structure,
    )


def _hdf5_names(file: Any) -> list[_Name]:
    """Name, residue, its number, and chain of each atom; empty where the file does not say."""
    if "topology" not in file:
        return []
    described = json.loads(file["topology"][0])
    atoms = [
        (int(atom["index"]), (atom["name"], residue["name"], int(residue.get("resSeq", residue["index"])), number))
        for number, chain in enumerate(described["chains"])
        for residue in chain["residues"]
        for atom in residue["atoms"]
    ]
    return [names for _, names in sorted(atoms)]


def _own_structure(
    name: str, names: list[_Name], positions: NDArray[Any], box: NDArray[np.float64] | None, selection: Selection
) -> tuple[str, NDArray[np.int64] | None]:
    """PDB text of the peptide as the file names it, and the atoms to keep, None for all. Raises: WrongAtoms."""
    sound = np.isfinite(positions).all(axis=(1, 2))
    frame = int(np.argmax(sound))
    text = _structure(names, positions[frame])
    if box is not None:  # else a molecule that is broken over its edges would not be known by its handedness
        topology = app.PDBFile(io.StringIO(text)).topology
        bonds = np.array([(a.index, b.index) for a, b in topology.bonds()], np.int64).reshape(-1, 2)
        text = _structure(names, make_whole(positions[frame : frame + 1], box[frame : frame + 1], bonds)[0])
    try:
        own = Peptide.from_pdb(text, states=True)
    except ValueError as error:
        raise WrongAtoms(f"the atoms of {name} are of no peptide that can be read: {error}") from error
    kept = own.file_atoms
    count = len(names if kept is None else kept)
    if own.n_atoms != selection.n_atoms or count != own.n_atoms:
        replace(selection, file_atoms=None).of(count, name)
    return own.to_pdb(), kept


def _structure(names: list[_Name], positions: NDArray[Any]) -> str:
    """PDB text of one frame (nm), with the names as the file has them."""
    lines = []
    for serial, ((name, residue, number, chain), x) in enumerate(zip(names, 10 * positions, strict=True), start=1):
        shown = f" {name:<3}" if len(name) < 4 else name[:4]
        where = "".join(f"{value:8.3f}" for value in x)
        lines.append(
            f"ATOM  {serial % 100000:5d} {shown} {residue[:3]:>3} {chr(65 + chain % 26)}{number % 10000:4d}    {where}"
            "  1.00  0.00\n"
        )
    return "".join(lines) + "END\n"
