"""Names of prochiral atoms by handedness, as the wwPDB's components have them; and the standard order of atoms.

Files exchange HB2 and HB3, CD1 and CD2 of leucine, NH1 and NH2 of arginine …, by chance or by another convention. It
is the same molecule; but a flow learns a distribution for each name. So flows are given atoms by where they stand, and
results go back in the order of the file.
Source: Markley et al. 1998 (IUPAC recommendations), in the coordinates of `components`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .residues import STATES

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.floating]

COMPONENTS = Path(__file__).parent / "components.json"  # made by `components`
Component = dict[str, npt.NDArray[np.float64]]

# Heavy atoms of one element on one centre, and two atoms before it: the centre's neighbour is the last.
_BRANCHES = {
    "LEU": ("CD1", "CD2", ("CA", "CB", "CG")),
    "VAL": ("CG1", "CG2", ("N", "CA", "CB")),
    "ARG": ("NH1", "NH2", ("CD", "NE", "CZ")),
}
_CENTRES = {"CA": ("N", "C", "CB"), "THR": ("CB", "CA", "OG1", "CG2"), "ILE": ("CB", "CA", "CG1", "CG2")}
_CAPS = {"ACE": ("H1", "CH3", "H2", "H3", "C", "O"), "NME": ("N", "H", "C", "H1", "H2", "H3")}
_BONDED = 2.0  # Å, of heavy atoms in the components; 1.3 to hydrogens


@cache
def components() -> dict[str, Component]:
    """Coordinates (3,) in Å of each atom, by residue and by IUPAC name, in the standard order of the atoms.

    Atoms that the component of a free residue lacks, such as the third hydrogen of a charged end, are all NaN.
    """
    table = json.loads(COMPONENTS.read_text())["components"]
    nothing = [np.nan] * 3
    found = {
        residue: {name: np.array(xyz or nothing, np.float64) for name, xyz in atoms.items()}
        for residue, atoms in table.items()
    }
    for state, (usual, gained, lost) in STATES.items():
        atoms = {name: xyz for name, xyz in found[usual].items() if name not in lost}
        found[state] = atoms | {name: np.array(nothing) for name in sorted(gained - atoms.keys())}
    return found


@dataclass(frozen=True)
class Exchangeable:
    """Atoms `first` and `second` of one centre, each with what hangs on it, whose names are told by `sense`.

    By handedness about `centre`, of the two and its neighbour `third`; or, in a planar group, by the torsion from
    `before` about `third` and the centre. `sense` is +1 or −1 in the wwPDB's components.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    centre: str
    third: str
    before: str | None
    sense: int = 0

    def sense_of(self, atoms: Mapping[str, FloatArray]) -> int:
        """Return +1 or −1, by which of the two stands where; 0 where the atoms lie in one another."""
        a, b, c, third = (atoms[name] for name in (self.first[0], self.second[0], self.centre, self.third))
        if self.before is None:
            return int(np.sign(np.dot(np.cross(a - c, b - c), third - c)))
        axis, normal = third - c, np.cross(third - c, atoms[self.before] - third)
        return int(np.sign(np.dot(np.cross(axis, a - c) - np.cross(axis, b - c), normal)))

    @property
    def needed(self) -> set[str]:
        """Names of the atoms that tell it."""
        return {self.first[0], self.second[0], self.centre, self.third} | ({self.before} if self.before else set())


@cache
def exchangeable(residue: str) -> tuple[Exchangeable, ...]:
    """Exchangeable atoms of a residue of the twenty or a cap, heavy ones first; none for another residue."""
    if residue in _CAPS:
        return (Exchangeable(("H2",), ("H3",), "CH3" if residue == "ACE" else "C", "H1", None, _ammonium()),)
    ideal = components().get(residue, {})
    known = {name: xyz for name, xyz in ideal.items() if not np.isnan(xyz).any()}
    found = list(_end(residue)) if ideal else []
    hydrogens = {name: _bonded(known, name, "H") for name in known if name[0] != "H"}
    if residue in _BRANCHES:
        one, two, (before, third, centre) = _BRANCHES[residue]
        first, second = ((name, *hydrogens[name]) for name in (one, two))
        planar = before if residue == "ARG" else None
        found.insert(0, _told(Exchangeable(first, second, centre, third, planar), known))
    for name, attached in hydrogens.items():
        heavy = _bonded(known, name, "CNOS")
        if len(attached) == 3:  # which of the three comes first is free, but not which way round they go
            found.append(_told(Exchangeable((attached[1],), (attached[2],), name, attached[0], None), known))
        elif len(attached) == 2 and len(heavy) == 2:
            found.append(_told(Exchangeable((attached[0],), (attached[1],), name, heavy[0], None), known))
        elif len(attached) == 2:
            beyond = next(other for other in _bonded(known, heavy[0], "CNOS") if other != name)
            found.append(_told(Exchangeable((attached[0],), (attached[1],), name, heavy[0], beyond), known))
    return tuple(found)


def _bonded(atoms: Mapping[str, FloatArray], name: str, elements: str) -> list[str]:
    limit = 1.3 if elements == "H" else _BONDED
    near = {other: float(np.linalg.norm(xyz - atoms[name])) for other, xyz in atoms.items() if other != name}
    return [other for other, distance in near.items() if other[0] in elements and distance < limit]


def _told(one: Exchangeable, atoms: Mapping[str, FloatArray]) -> Exchangeable:
    return Exchangeable(one.first, one.second, one.centre, one.third, one.before, one.sense_of(atoms))


def _end(residue: str) -> Iterator[Exchangeable]:
    """The charged N terminus, which no component has: the way round that LYS's ammonium group goes."""
    if residue == "PRO":
        yield Exchangeable(("H2",), ("H3",), "N", "CA", None, +1)
    else:
        yield Exchangeable(("H2",), ("H3",), "N", "H", None, _ammonium())


@cache
def _ammonium() -> int:
    lysine = components()["LYS"]
    return Exchangeable(("HZ2",), ("HZ3",), "NZ", "HZ1", None).sense_of(lysine)


def iupac_names(
    residues: Sequence[str], names: Sequence[tuple[int, str]], positions: FloatArray
) -> list[tuple[int, str]]:
    """Residue number and IUPAC name of each atom, by where it stands.

    `residues`: names from the N terminus. `names`: residue number and name of each atom in the file. Atoms that the
    wwPDB's components do not have keep their names.

    Shape: positions (N, 3), in any unit.
    """
    where: list[dict[str, int]] = [{} for _ in residues]
    for i, (number, name) in enumerate(names):
        where[number][name] = i
    for residue, at in zip(residues, where, strict=True):
        for one in exchangeable(residue):
            if one.needed <= at.keys() and one.sense_of({n: positions[at[n]] for n in one.needed}) == -one.sense:
                exchange(at, one)
    result = list(names)
    for number, at in enumerate(where):
        for name, i in at.items():
            result[i] = (number, name)
    return result


def exchange(at: dict[str, int], one: Exchangeable) -> None:
    """Exchange the atoms of `at`, index by name."""
    for a, b in zip(one.first, one.second, strict=True):
        if a in at and b in at:
            at[a], at[b] = at[b], at[a]


def iupac_order(residues: Sequence[str], iupac: Sequence[tuple[int, str]]) -> IntArray:
    """Index of each atom in the standard order: by residue, and in it as `components` lists them; others follow."""
    ranks: list[Mapping[str, int]] = [{name: k for k, name in enumerate(order_of(residue))} for residue in residues]

    def rank(i: int) -> tuple[int, int, int]:
        residue, name = iupac[i]
        return residue, ranks[residue].get(name, len(ranks[residue])), i

    return np.array(sorted(range(len(iupac)), key=rank), np.int64)


def order_of(residue: str) -> Iterable[str]:
    """Names of a residue's atoms in the standard order; of caps, that of the AMBER force fields."""
    return _CAPS.get(residue) or components().get(residue, {})


class _Peptide(Protocol):
    """A `molecules.Peptide`."""

    @property
    def sequence(self) -> str: ...
    @property
    def n_atoms(self) -> int: ...
    @property
    def topology(self) -> Any: ...
    @property
    def iupac_order(self) -> IntArray: ...
    def iupac(self) -> "_Peptide": ...


def atom_map(source: _Peptide, target: _Peptide) -> IntArray:
    """Index (N,) such that `x_source[:, index]` are frames in the order, and under the names, of `target`.

    Atoms are matched by residue and IUPAC name: prochiral ones by where they stand in each peptide's own positions.
    Raises: ValueError for different molecules.
    """
    theirs, ours = source.iupac(), target.iupac()
    if atom_names(theirs) != atom_names(ours):
        raise ValueError(f"{source.sequence} and {target.sequence} do not have the same atoms: give the same molecule")
    index = np.empty(target.n_atoms, np.int64)
    index[target.iupac_order] = source.iupac_order
    return index


def atom_names(peptide: _Peptide) -> list[str]:
    """`1 ALA CA` and so on: residue number, residue, name of each atom, in the order of the peptide."""
    return [f"{a.residue.index + 1} {a.residue.name} {a.name}" for a in peptide.topology.atoms()]


def wrong_centre(residue: str, atoms: Mapping[str, FloatArray]) -> str | None:
    """Name of the first chiral centre that is mirrored against the L-residue of the wwPDB, else None.

    Atoms in one place (a file without coordinates) have no handedness, and are not found.
    """
    ideal: Component = components().get(residue, {})
    centres = [("CA", *_CENTRES["CA"])] if "CB" in ideal else []
    if residue in ("THR", "ILE"):
        centres.append(_CENTRES[residue])
    for centre, *three in centres:
        signs = []
        for where in (ideal, atoms):
            a, b, c = (where[name] - where[centre] for name in three)
            signs.append(np.sign(np.dot(np.cross(a, b), c)))
        if signs[0] == -signs[1]:
            return centre
    return None
