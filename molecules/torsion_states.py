"""States of a peptide, each a window of one torsion: what two ensembles of it must both have, or both lack.

Windows are fixed, so that a state is the same in every trajectory and in every draw of a flow.

Shapes: T frames, N atoms, S states. Angles in degrees here.
Source: torsions and χ windows: IUPAC-IUB 1970 (Biochemistry 9, 3471), g+ about 60°, t about 180°, g− about −60° as in
Dunbrack & Karplus 1993; αR, −120° < ψ < 50°: Best, Buchete & Hummer 2008.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import mdtraj
import numpy as np
from numpy.typing import ArrayLike, NDArray
from openmm.app import Topology

from .residues import ONE_LETTER
from .sequences import ACE, NME, caps, inner_letters

Atoms = tuple[int, int, int, int]
Window = tuple[str, float, float]

# Left-handed (αL, C7ax), and no wider: β is found on either side of ±180°, so that 0…180° would hold some of it.
PHI: tuple[Window, ...] = (("0…120°", 0, 120),)
PSI: tuple[Window, ...] = (("−120…50°", -120, 50), ("50…240°", 50, 240))  # α, and β with PPII
OMEGA: tuple[Window, ...] = (("cis", -90, 90),)
CHI: tuple[Window, ...] = (("g+", 0, 120), ("t", 120, 240), ("g−", -120, 0))
GAMMA = ("CG", "CG1", "OG", "OG1", "SG")
DELTA = ("CD", "CD1", "SD")


class HasStates(Protocol):
    """A peptide that knows IUPAC's names of its atoms."""

    @property
    def sequence(self) -> str: ...
    @property
    def topology(self) -> Any: ...
    @property
    def iupac_order(self) -> NDArray[np.int64]: ...
    def iupac(self) -> "HasStates": ...


@dataclass(frozen=True, kw_only=True)
class TorsionState:
    """Conformations with low ≤ torsion < high on the circle; `atoms` (indices of four) define the torsion."""

    label: str
    atoms: Atoms
    low_deg: float
    high_deg: float


def torsion_states(topology: Topology, sequence: str) -> list[TorsionState]:
    """List the states of φ, ψ, ω, χ1 and χ2, residue by residue.

    Left out is what has one state only, or states with names by chance: φ and χ of a ring (PRO), methyls, planar and
    exchangeable groups. Labels are as in φ(A2), caps not counted; of atoms they take the names that the topology has,
    so χ of LEU and VAL need IUPAC's: see `states_of`.
    """
    residues = [{atom.name: atom.index for atom in residue.atoms()} for residue in topology.residues()]
    bonds = [{a.index, b.index} for a, b in topology.bonds()]
    neighbours: list[set[int]] = [set() for _ in range(topology.getNumAtoms())]
    for a, b in bonds:
        neighbours[a].add(b)
        neighbours[b].add(a)
    return [
        TorsionState(label=f"{torsion}({place}) {name}", atoms=atoms, low_deg=low, high_deg=high)
        for i, place in enumerate(residue_labels(topology, sequence))
        for torsion, atoms, windows in _torsions(residues, neighbours, i)
        for name, low, high in windows
    ]


def states_of(peptide: HasStates) -> list[TorsionState]:
    """List the states of a peptide under IUPAC's names, told by handedness; atoms are in the peptide's own order."""
    order = [int(i) for i in peptide.iupac_order]
    return [
        TorsionState(label=s.label, atoms=_four(order, s.atoms), low_deg=s.low_deg, high_deg=s.high_deg)
        for s in torsion_states(peptide.iupac().topology, peptide.sequence)
    ]


def occupied(states: Sequence[TorsionState], positions_nm: ArrayLike) -> NDArray[np.bool_]:
    """Return the states that each frame is in; frames with NaN are in none.

    Shape: (T, N, 3) -> (T, S). Units: nm.
    """
    positions = np.asarray(positions_nm, dtype=np.float32)
    torsions = list(dict.fromkeys(state.atoms for state in states))
    if not torsions:
        return np.zeros((len(positions), 0), dtype=bool)
    frames: Any = mdtraj.Trajectory(positions, None)
    with np.errstate(invalid="ignore"):
        angles = np.degrees(mdtraj.compute_dihedrals(frames, np.array(torsions), periodic=False).astype(np.float64))
        columns = angles[:, [torsions.index(state.atoms) for state in states]]
        low, high = (np.array([getattr(state, end) for state in states]) for end in ("low_deg", "high_deg"))
        inside: NDArray[np.bool_] = np.mod(columns - low, 360.0) < high - low
    return inside


def residue_labels(topology: Topology, sequence: str) -> list[str]:
    """Letter and number of each residue, such as A2, caps by their names and not counted.

    Of a molecule whose name is no row of letters they are those of the residues' names.
    """
    names = [residue.name for residue in topology.residues()]
    first, last = caps(sequence)
    letters = inner_letters(sequence)
    if len(letters) != len(names) - first - last:
        first, last = names[0] == ACE, len(names) > 1 and names[-1] == NME
        letters = "".join(ONE_LETTER.get(name, "X") for name in names[int(first) : len(names) - int(last)])
    inner = [f"{letter}{i}" for i, letter in enumerate(letters, start=1)]
    return [*names[: int(first)], *inner, *names[len(names) - int(last) :]]


def _torsions(
    residues: list[dict[str, int]], neighbours: list[set[int]], i: int
) -> Iterator[tuple[str, Atoms, tuple[Window, ...]]]:
    """The torsions of residue i: their names, atoms and windows, where all atoms are there and bonded in a row."""
    here = residues[i]
    before: dict[str, int] = residues[i - 1] if i else {}
    after: dict[str, int] = residues[i + 1] if i + 1 < len(residues) else {}
    n, ca, cb, c = (here.get(name) for name in ("N", "CA", "CB", "C"))
    ring = any(here.get(name) in neighbours[n] for name in ("CD", "CG", "CB")) if n is not None else False
    # The carbons next to the amide: CH3 of ACE, and NME's methyl, which is called C or CH3.
    start = here.get("CA", here.get("CH3"))
    end = after.get("CA", after.get("CH3", after.get("C")))
    gamma = next((here[name] for name in GAMMA if name in here), None)
    delta = next((here[name] for name in DELTA if name in here), None)
    found: list[tuple[str, tuple[int | None, ...], tuple[Window, ...]]] = [
        ("ψ", (n, ca, c, after.get("N")), PSI),
        ("ω", (start, c, after.get("N"), end), OMEGA),
    ]
    if not ring:
        found.insert(0, ("φ", (before.get("C"), n, ca, c), PHI))
        found.append(("χ1", (n, ca, cb, gamma), CHI))
        if gamma is not None and len(neighbours[gamma]) == 4:  # of a planar group two states are one, by exchange
            found.append(("χ2", (ca, cb, gamma, delta), CHI))
    for name, atoms, windows in found:
        row = [a for a in atoms if a is not None]
        if len(row) == 4 and all(b in neighbours[a] for a, b in pairwise(row)):
            yield name, _four(range(len(neighbours)), row), windows


def _four(order: Sequence[int], atoms: Sequence[int]) -> Atoms:
    a, b, c, d = (order[i] for i in atoms)
    return a, b, c, d
