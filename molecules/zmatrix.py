"""Internal coordinates of a peptide: which atoms each bond, angle and torsion refers to, and their usual values.

A tree grows from the first residue's N, CA, C. An atom has a bond to its parent p, an angle with the atom g before
it, and a torsion about p-g. The first child of p turns freely about that bond (the torsion is *free*); its siblings
are placed relative to it, so that their torsions stay near ±120° or 180°.
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


def reference_atoms(names: Sequence[tuple[int, str]], bonds: Iterable[tuple[int, int]]) -> tuple[IntArray, IntArray]:
    """References (p, g, q) of each atom, and which torsions are free.

    `names`: residue number and atom name of each atom; `bonds`: pairs of atoms.

    Shape: references (N, 3), −1 where there is none (the first three backbone atoms carry the rigid motion);
        free (N,) 0 or 1.
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
    queue, references = [root], np.full((len(names), 3), -1)
    references[second, 0] = root
    references[third, :2] = second, root
    free = np.zeros(len(names), np.int64)
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
                references[i], free[i], first = (p, before, beyond), 1, i
            else:
                references[i] = p, before, first
    return references, free


def torsions(positions_nm: npt.NDArray[np.floating], references: IntArray) -> npt.NDArray[np.float64]:
    """Torsion of each atom (N,) in one structure (N, 3), 0 where it has none. Units: nm, rad."""
    p, g, q = (positions_nm[references[:, k]] for k in range(3))
    u, v, w = (positions_nm - p, g - p, q - g)
    n1, n2 = np.cross(v, u), np.cross(v, w)
    length = np.maximum(np.linalg.norm(v, axis=1), 1e-12)
    angle = np.arctan2((np.cross(n1, n2) * v).sum(1) / length, (n1 * n2).sum(1))
    return np.where(references[:, 2] >= 0, angle, 0.0)


def roles(names: Sequence[tuple[int, str]], references: IntArray, torsion: npt.NDArray[np.float64]) -> IntArray:
    """Which atom plays each atom's part (N,): the hydrogens of a CH2, CH3 or NH3 group, by handedness.

    Which of two equivalent hydrogens is called 2 and which 3 is chance in many files, and stays so through dynamics.
    Here the one whose name comes first stands at +120° from its sibling.
    """
    role = np.arange(len(names))
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, name in sorted(enumerate(names), key=lambda pair: pair[1][1]):
        if name[1][0] == "H" and references[i, 2] >= 0:
            groups.setdefault(tuple(references[i]), []).append(i)
    for atoms in groups.values():
        if len(atoms) == 2 and torsion[atoms[0]] < 0 < torsion[atoms[1]]:
            role[atoms] = atoms[::-1]
    return role


def depths(references: IntArray) -> IntArray:
    """How many atoms must stand before each one can be placed (N,): those of one depth can be placed together."""
    depth = np.zeros(len(references), np.int64)
    pending = set(range(len(references)))
    while pending:
        ready = [i for i in pending if not pending & set(references[i])]
        if not ready:
            raise ValueError("the atoms are not one connected molecule: check its bonds")
        for i in ready:
            depth[i] = 1 + max((depth[j] for j in references[i] if j >= 0), default=-1)
        pending -= set(ready)
    return depth


@cache
def _geometry() -> dict[str, dict[str, dict[str, list[float]]]]:
    table: dict[str, dict[str, dict[str, list[float]]]] = json.loads(GEOMETRY.read_text())
    return table


def geometry_version() -> str:
    """Fingerprint of the table of usual values: a flow that was trained with another one would be wrong."""
    return hashlib.sha256(GEOMETRY.read_bytes()).hexdigest()[:16]


def place_in_chain(residue: int, n_residues: int) -> str:
    """`first`, `middle` or `last`: the ends of a chain are charged, and have atoms of their own."""
    return "first" if residue == 0 else "last" if residue == n_residues - 1 else "middle"


def usual_values(
    residues: Sequence[str], names: Sequence[tuple[int, str]], free: IntArray
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation of each atom's bond, angle and torsion at 310 K (N, 3). Units: nm, rad.

    A free torsion has deviation 1: it is measured from its mean where it has one, and stays in (−π, π].
    """
    table = _geometry()
    rows = [table[residues[r]][place_in_chain(r, len(residues))][name] for r, name in names]
    values = np.array(rows, np.float64)
    mean, scale = values[:, :3], values[:, 3:]
    return mean, np.where(np.arange(3) == 2, np.where(free[:, None] > 0, 1.0, scale), scale)


def circular_mean(angle: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean direction of angles, and their deviation from it. Units: rad."""
    mean = math.atan2(np.sin(angle).mean(), np.cos(angle).mean())
    return mean, float(np.sqrt(np.mean(np.square((angle - mean + math.pi) % (2 * math.pi) - math.pi))))
