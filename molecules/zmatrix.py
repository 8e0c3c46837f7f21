"""The z-matrix of a peptide: the atoms that each bond, angle and torsion refers to, and the usual values of these.

A tree grows from the first residue's N, CA, C. An atom has a bond to its parent p, an angle with the atom g before
it, and a torsion about p-g. The torsion of the first child of p is a *rotatable dihedral*, which takes any value; its
siblings are placed relative to it, so that their torsions (improper ones) stay near ±120° or 180°.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

BACKBONE = ("N", "CA", "C")
GEOMETRY = Path(__file__).parent / "geometry.json"


def build_z_matrix(names: Sequence[tuple[int, str]], bonds: Iterable[tuple[int, int]]) -> tuple[IntArray, IntArray]:
    """Atoms (p, g, q) that place each atom, and which torsions are rotatable dihedrals.

    `names`: residue number and atom name of each atom; `bonds`: pairs of atoms.

    Shape: z_matrix (N, 3), −1 where there is none (the first three backbone atoms carry the rigid motion);
        rotatable (N,) 0 or 1.
    """
    index = {key: i for i, key in enumerate(names)}
    root, second, third = (index[0, name] for name in BACKBONE)
    neighbours: list[list[int]] = [[] for _ in names]
    for a, b in bonds:
        neighbours[a].append(b)
        neighbours[b].append(a)

    def rank(i: int) -> tuple[bool, bool, str]:
        name = names[i][1]
        return name[0] == "H", name not in BACKBONE, name  # heavy atoms first, of these the backbone

    parent = {root: second}  # seen from the root, the second atom is what comes before
    queue, z_matrix = [root], np.full((len(names), 3), -1)
    z_matrix[second, 0] = root
    z_matrix[third, :2] = second, root
    rotatable = np.zeros(len(names), np.int64)
    for p in queue:
        children = sorted((i for i in neighbours[p] if i not in parent), key=rank)
        queue += children
        before = parent[p]
        first = third if p == second else -1
        for i in children:
            parent[i] = p
            if i in (second, third):
                continue
            if first < 0:
                beyond = third if p == root else (second if before == root else parent[before])
                z_matrix[i], rotatable[i], first = (p, before, beyond), 1, i
            else:
                z_matrix[i] = p, before, first
    return z_matrix, rotatable


def torsions(positions_nm: npt.NDArray[np.floating], z_matrix: IntArray) -> npt.NDArray[np.float64]:
    """Torsion of each atom (N,) in one structure (N, 3), 0 where it has none. Units: nm, rad."""
    p, g, q = (positions_nm[z_matrix[:, k]] for k in range(3))
    u, v, w = (positions_nm - p, g - p, q - g)
    n1, n2 = np.cross(v, u), np.cross(v, w)
    length = np.maximum(np.linalg.norm(v, axis=1), 1e-12)
    angle = np.arctan2((np.cross(n1, n2) * v).sum(1) / length, (n1 * n2).sum(1))
    return np.where(z_matrix[:, 2] >= 0, angle, 0.0)


def hydrogen_permutation(
    names: Sequence[tuple[int, str]], z_matrix: IntArray, torsion: npt.NDArray[np.float64]
) -> IntArray:
    """Index (N,) of the atom that stands in for each: equivalent hydrogens of a CH2, CH3 or NH3 group, by handedness.

    Which of two equivalent hydrogens is called 2 and which 3 is chance in many files, and stays so through dynamics.
    Here the one whose name comes first stands at +120° from its sibling. `torsion` (N,): of `torsions`, in rad.
    """
    permutation = np.arange(len(names))
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, name in sorted(enumerate(names), key=lambda pair: pair[1][1]):
        if name[1][0] == "H" and z_matrix[i, 2] >= 0:
            groups.setdefault(tuple(z_matrix[i]), []).append(i)
    for atoms in groups.values():
        if len(atoms) == 2 and torsion[atoms[0]] < 0 < torsion[atoms[1]]:
            permutation[atoms] = atoms[::-1]
    return permutation


def levels(z_matrix: IntArray) -> IntArray:
    """Level (N,) of each atom in the tree: those of one level can be placed together, after all levels before.

    Raises: ValueError when the atoms are not connected.
    """
    level = np.zeros(len(z_matrix), np.int64)
    pending = set(range(len(z_matrix)))
    while pending:
        ready = [i for i in pending if not pending & set(z_matrix[i])]
        if not ready:
            raise ValueError("the atoms are not one connected molecule: check its bonds")
        for i in ready:
            level[i] = 1 + max((level[j] for j in z_matrix[i] if j >= 0), default=-1)
        pending -= set(ready)
    return level


@cache
def _geometry() -> dict[str, dict[str, dict[str, list[float]]]]:
    table: dict[str, dict[str, dict[str, list[float]]]] = json.loads(GEOMETRY.read_text())
    return table


def geometry_version() -> str:
    """Fingerprint of the table of usual values: a flow that was trained with another one gives wrong densities."""
    return hashlib.sha256(GEOMETRY.read_bytes()).hexdigest()[:16]


def place_in_chain(residue: int, n_residues: int) -> str:
    """`first`, `middle` or `last`: the ends of a chain are charged, and have atoms of their own."""
    return "first" if residue == 0 else "last" if residue == n_residues - 1 else "middle"


def usual_values(
    residues: Sequence[str], names: Sequence[tuple[int, str]], rotatable: IntArray
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation of each atom's bond, angle and torsion at 310 K (N, 3). Units: nm, rad.

    A rotatable dihedral has deviation 1: it is measured from its mean where it has one, and stays in (−π, π].
    """
    table = _geometry()
    rows = [table[residues[r]][place_in_chain(r, len(residues))][name] for r, name in names]
    values = np.array(rows, np.float64)
    mean, scale = values[:, :3], values[:, 3:]
    return mean, np.where(np.arange(3) == 2, np.where(rotatable[:, None] > 0, 1.0, scale), scale)


def circular_mean(angle: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean direction of angles, and their deviation from it. Units: rad."""
    mean = math.atan2(np.sin(angle).mean(), np.cos(angle).mean())
    return mean, float(np.sqrt(np.mean(np.square((angle - mean + math.pi) % (2 * math.pi) - math.pi))))
