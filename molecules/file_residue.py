"""Names that programs give to the atoms of a residue → those of the wwPDB."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .kinds import ACID_HYDROGENS
from .residues import CAPS, expected_atoms
from .stereo import exchange, exchangeable

_OXYGENS = ({"O", "O1", "OT1", "OC1", "OCT1", "O'"}, {"OXT", "O2", "OT2", "OC2", "OCT2", "OT", "O''"})
_TOO_FAR = 0.17  # nm from a hydrogen to the atom that it is on


@dataclass
class FileResidue:
    """A residue as read: `names` and positions (nm) of its atoms, and their indices in the file's first model."""

    name: str
    number: str
    chain: str
    names: list[str] = field(default_factory=list)
    elements: list[str] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.name} {self.number}"

    def hydrogens(self) -> dict[str, list[int]]:
        """Hydrogens, as places in `names`, by the heavy atom that they are on; "" for those that are on none."""
        heavy = [i for i, element in enumerate(self.elements) if element != "H"]
        found: dict[str, list[int]] = {}
        for i, element in enumerate(self.elements):
            if element == "H":
                away = [float(np.linalg.norm(self.positions[i] - self.positions[j])) for j in heavy]
                near = bool(heavy) and min(away) < _TOO_FAR
                found.setdefault(self.names[heavy[int(np.argmin(away))]] if near else "", []).append(i)
        return found


def rename_heavy(residue: FileResidue, last: bool) -> None:
    """Names of heavy atoms that programs give otherwise."""
    heavy = [name for name, element in zip(residue.names, residue.elements, strict=True) if element != "H"]
    for i, name in enumerate(residue.names):
        if residue.elements[i] == "H":
            continue
        if residue.name == "ILE" and name == "CD" and "CD1" not in heavy:
            residue.names[i] = "CD1"
        elif residue.name == "NME" and name in ("CH3", "CT", "CAT", "CA", "NT"):
            residue.names[i] = "N" if name == "NT" else "C"
        elif residue.name == "ACE" and name in ("CA", "CAY", "CY", "OY"):
            residue.names[i] = {"CA": "CH3", "CAY": "CH3", "CY": "C", "OY": "O"}[name]
        elif last and name in _OXYGENS[0] and "O" not in heavy:
            residue.names[i] = "O"
        elif last and name in _OXYGENS[1] and "OXT" not in heavy and name != "O":
            residue.names[i] = "OXT"


def rename_hydrogens(residue: FileResidue, first: bool, last: bool) -> None:
    """Names of hydrogens that are not the wwPDB's: by the atom that they are on, and by handedness among them."""
    expected = expected_atoms(residue.name, first=first, last=last)
    if set(residue.names) == expected:
        return
    wanted = hydrogens_on(residue.name, expected)
    for parent, found in residue.hydrogens().items():
        names = wanted.get(parent, [])
        own = {residue.names[i] for i in found}
        if own == set(names) or len(found) != len(names) or own & ACID_HYDROGENS.get(residue.name, set()):
            continue
        for i, name in zip(found, names, strict=True):
            residue.names[i] = name
        _by_handedness(residue, names)


def hydrogens_on(residue: str, names: set[str]) -> dict[str, list[str]]:
    """Hydrogens among `names`, in order, by the heavy atom of the residue that they are on."""
    heavy = [name for name in names if name[0] != "H"]
    result: dict[str, list[str]] = {}
    for name in sorted(name for name in names if name[0] == "H"):
        result.setdefault(_parent(residue, name, heavy), []).append(name)
    return result


def _parent(residue: str, hydrogen: str, heavy: Sequence[str]) -> str:
    """The heavy atom of a hydrogen: the one with its letters, such as CG1 of HG12; the backbone's by hand."""
    if residue in CAPS:
        return "N" if hydrogen == "H" else {"ACE": "CH3", "NME": "C"}[residue]
    if hydrogen in ("H", "H2", "H3"):
        return "N"
    stem = hydrogen[1:]
    for letters in (stem, stem[:-1]):
        for name in heavy:
            if name[1:] == letters and letters:
                return name
    raise AssertionError(hydrogen)


def _by_handedness(residue: FileResidue, names: Sequence[str]) -> None:
    at = {name: i for i, name in enumerate(residue.names)}
    for one in exchangeable(residue.name):
        known = {one.first[0], one.second[0]} <= set(names) and one.needed <= at.keys()
        if known and one.sense_of({n: residue.positions[at[n]] for n in one.needed}) == -one.sense:
            exchange(at, one)
    for name, i in at.items():
        residue.names[i] = name


def pdb_lines(residues: Sequence[FileResidue]) -> Iterator[str]:
    """ATOM records of renamed residues, as OpenMM reads them."""
    serial = 0
    for place, residue in enumerate(residues, start=1):
        number = residue.number if residue.number[-1].isalpha() else f"{residue.number} "
        number = number if len(number) <= 5 else f"{place} "  # numbers of more than four digits
        for name, element, xyz in zip(residue.names, residue.elements, residue.positions, strict=True):
            serial += 1
            label = name if len(name) == 4 else f" {name:<3}"
            x, y, z = 10 * xyz
            yield (
                f"ATOM  {serial % 100_000:5d} {label} {residue.name:>3} {residue.chain[0]}{number:>5}   "
                f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {element:>2}"
            )
    yield "END"
