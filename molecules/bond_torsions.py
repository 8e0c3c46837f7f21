"""Torsions of any molecule about bonds between heavy atoms: its conformation, where it has no backbone.

Shapes: T frames, N atoms, F angles. Units: nm, rad.
"""

import mdtraj
import numpy as np
from numpy.typing import ArrayLike, NDArray
from openmm.app import Topology

from .observables import dihedrals

Floats = NDArray[np.float64]


def heavy_torsions(topology: Topology) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Torsions about each bond between heavy atoms that have others: a name, and the atoms."""
    atoms = list(topology.atoms())
    heavy = [atom.element is not None and atom.element.symbol != "H" for atom in atoms]
    near: list[list[int]] = [[] for _ in atoms]
    for a, b in topology.bonds():
        if heavy[a.index] and heavy[b.index]:
            near[a.index].append(b.index)
            near[b.index].append(a.index)
    several = sum(1 for _ in topology.residues()) > 1
    found = []
    for b in range(len(atoms)):
        for c in (i for i in near[b] if i > b):
            ends = [i for i in sorted(near[b]) if i != c], [i for i in sorted(near[c]) if i != b]
            if all(ends) and ends[0][0] != ends[1][0]:
                row = (ends[0][0], b, c, ends[1][0])
                names = "-".join(atoms[i].name for i in row)
                found.append((f"{names} ({atoms[b].residue.index + 1})" if several else names, row))
    return found


def torsion_angles(positions_nm: ArrayLike, rows: list[tuple[int, int, int, int]]) -> Floats:
    """Angles of torsions, each of four atoms. Shape: (T, N, 3) -> (T, F)."""
    positions = np.asarray(positions_nm, np.float32)
    if not rows:
        return np.zeros((len(positions), 0))
    found: Floats = mdtraj.compute_dihedrals(mdtraj.Trajectory(positions, None), np.array(rows), periodic=False)
    return found.astype(np.float64)


def conformation_angles(positions_nm: ArrayLike, topology: Topology) -> Floats:
    """φ and ψ of all residues, or all torsions between heavy atoms of what has none. Shape: (T, N, 3) -> (T, F)."""
    backbone = np.concatenate(dihedrals(positions_nm, topology)[:2], axis=1)
    if backbone.shape[1]:
        return backbone
    return torsion_angles(positions_nm, [atoms for _, atoms in heavy_torsions(topology)])
