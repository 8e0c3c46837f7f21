"""The z-matrix of a peptide: the atoms that each bond, angle and torsion refers to, and the usual values of these.

A tree grows from the first residue's N, CA, C, or from CH3, C of ACE and the next N. An atom has a bond to its parent
p, an angle with the atom g before it, and a torsion about p-g. The torsion of the first child of p is a *rotatable
dihedral*, which takes any value; its siblings are placed relative to it, so that their torsions (improper ones) stay
near ±120° or 180°.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .stereo import iupac_order

IntArray = npt.NDArray[np.int64]

BACKBONE = ("N", "CA", "C")
HEAVY_BACKBONE = (*BACKBONE, "O", "OXT")
GEOMETRY = Path(__file__).parent / "geometry.json"
GEOMETRY_OF_STATES = GEOMETRY.with_name("geometry_states.json")  # of what vocabulary 2 adds
PLUS = "+"  # between the fingerprints of two tables


def build_z_matrix(names: Sequence[tuple[int, str]], bonds: Iterable[tuple[int, int]]) -> tuple[IntArray, IntArray]:
    """Atoms (p, g, q) that place each atom, and which torsions are rotatable dihedrals.

    `names`: residue number and atom name of each atom; `bonds`: pairs of atoms.

    Shape: z_matrix (N, 3), −1 where there is none (the first three atoms of the chain carry the rigid motion);
        rotatable (N,) 0 or 1.
    """
    index = {key: i for i, key in enumerate(names)}
    # ACE's CH3 and C stand where CA and C of a residue do: from there on the tree is that of any chain.
    start = [(0, name) for name in BACKBONE] if (0, "N") in index else [(0, "CH3"), (0, "C"), (1, "N")]
    root, second, third = (index[key] for key in start)
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


def permutation(names: Sequence[tuple[int, str]], iupac: Sequence[tuple[int, str]]) -> IntArray:
    """Index (N,) of the atom that a flow gets in place of each: the one that has its name in IUPAC's convention.

    Files exchange the names of prochiral atoms. `names`: residue number and name of each atom in the file; `iupac`: its
    IUPAC name, by where it stands.
    """
    at = {key: i for i, key in enumerate(iupac)}
    return np.array([at[key] for key in names], np.int64)


def internal_coordinates(
    residues: Sequence[str],
    names: Sequence[tuple[int, str]],
    bonds: Iterable[tuple[int, int]],
    iupac: Sequence[tuple[int, str]],
    version: str,
) -> dict[str, np.ndarray]:
    """Tables of a peptide for a flow: see `Peptide.internal`."""
    z_matrix, rotatable = build_z_matrix(names, bonds)
    mean, scale = usual_values(residues, names, rotatable, version)
    return {
        "z_matrix": z_matrix,
        "rotatable": rotatable,
        "level": levels(z_matrix),
        "placement": placement_order(residues, names, z_matrix),
        "permutation": permutation(names, iupac),
        "mean": mean,
        "scale": scale,
    }


def placement_order(residues: Sequence[str], names: Sequence[tuple[int, str]], z_matrix: IntArray) -> IntArray:
    """Order (N,) in which each atom comes after those that place it: the backbone first, then residue by residue.

    It depends on names and not on the order of the file. `names`: residue number and name of each atom.
    """
    waiting = sorted(iupac_order(residues, names).tolist(), key=lambda i: names[i][1] not in HEAVY_BACKBONE)
    order: list[int] = []
    placed = {-1}
    while waiting:
        i = next(i for i in waiting if placed.issuperset(z_matrix[i].tolist()))
        waiting.remove(i)
        order.append(i)
        placed.add(i)
    return np.array(order, np.int64)


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
def _versions() -> dict[str, Path]:
    """Tables by fingerprint: this version's, and earlier ones, which flows that were trained with them still need."""
    return {_fingerprint(path): path for path in GEOMETRY.parent.glob("geometry*.json")}


@cache
def _fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@cache
def _geometry(version: str) -> dict[str, dict[str, dict[str, list[float]]]]:
    if not knows_geometry(version):
        raise ValueError(f"no table of usual bonds and angles has the version {version}")
    table: dict[str, dict[str, dict[str, list[float]]]] = {}
    for part in version.split(PLUS):
        table |= json.loads(_versions()[part].read_text())
    return table


def geometry_version(vocabulary: int = 1) -> str:
    """Fingerprint of the table of usual values: a flow that was trained with another one gives wrong densities.

    Of vocabulary 2 there are two, joined: `widened` makes it of that of vocabulary 1.
    """
    return _fingerprint(GEOMETRY) if vocabulary == 1 else widened(_fingerprint(GEOMETRY))


def widened(version: str) -> str:
    """The version with the rows of vocabulary 2 beside its own, which stay as they are."""
    return version if PLUS in version else f"{version}{PLUS}{_fingerprint(GEOMETRY_OF_STATES)}"


def knows_geometry(version: str) -> bool:
    """Return whether the table of usual values of that version is there."""
    return all(part in _versions() for part in version.split(PLUS))


def place_in_chain(residue: int, n_residues: int) -> str:
    """`first`, `middle` or `last`: the ends of a chain are charged, and have atoms of their own. Caps are ends."""
    return "first" if residue == 0 else "last" if residue == n_residues - 1 else "middle"


def usual_values(
    residues: Sequence[str], names: Sequence[tuple[int, str]], rotatable: IntArray, version: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation of each atom's bond, angle and torsion at 310 K (N, 3). Units: nm, rad.

    A rotatable dihedral has deviation 1: it is measured from its mean where it has one, and stays in (−π, π].
    """
    table = _geometry(version)
    if missing := sorted(set(residues) - table.keys()):
        raise ValueError(
            f"{', '.join(missing)} has no usual geometry in the table that this flow was trained with: give a flow of "
            "vocabulary 2"
        )
    places = [place_in_chain(r, len(residues)) for r in range(len(residues))]
    for residue, place in zip(residues, places, strict=True):
        if place not in table[residue]:
            raise ValueError(
                f"{residue} is the {place} residue, and the force field has none at that end of a chain: put another "
                "residue or a cap there"
            )
    rows = [table[residues[r]][places[r]][name] for r, name in names]
    values = np.array(rows, np.float64)
    mean, scale = values[:, :3], values[:, 3:]
    return mean, np.where(np.arange(3) == 2, np.where(rotatable[:, None] > 0, 1.0, scale), scale)


def circular_mean(angle: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean direction of angles, and their deviation from it. Units: rad."""
    mean = math.atan2(np.sin(angle).mean(), np.cos(angle).mean())
    return mean, float(np.sqrt(np.mean(np.square((angle - mean + math.pi) % (2 * math.pi) - math.pi))))
