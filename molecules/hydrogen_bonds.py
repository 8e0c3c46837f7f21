"""Hydrogen bonds between groups of a peptide: equal atoms of a group, of which any may bond, count as one.

Shapes: T frames. Units: nm, degrees.
Source: Baker & Hubbard 1984: H···A below 0.25 nm, D–H···A above 120°.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .atom_lookup import AtomLookup

MAX_NM, MIN_DEGREES = 0.25, 120.0
NEAR = 3  # bonds between donor and acceptor; as close ones are held by the chain


@dataclass(frozen=True, kw_only=True)
class HydrogenBond:
    """Donor with its hydrogens, and the acceptors of one group."""

    label: str
    donor: int
    hydrogens: tuple[int, ...]
    acceptors: tuple[int, ...]

    def holds(self, positions_nm: NDArray[Any]) -> NDArray[np.bool_]:
        """Frames (T, N, 3) in which one of the pairs bonds, (T,)."""
        x = np.asarray(positions_nm, dtype=np.float64)
        inside = np.zeros(len(x), dtype=bool)
        for h in self.hydrogens:
            to_donor = x[:, self.donor] - x[:, h]
            for a in self.acceptors:
                to_acceptor = x[:, a] - x[:, h]
                length, bond = np.linalg.norm(to_acceptor, axis=1), np.linalg.norm(to_donor, axis=1)
                cosine = (to_donor * to_acceptor).sum(axis=1) / np.maximum(length * bond, 1e-12)
                inside |= (length < MAX_NM) & (cosine < np.cos(np.radians(MIN_DEGREES)))
        return inside


def hydrogen_bonds(atoms: AtomLookup) -> list[HydrogenBond]:
    """List all pairs of donors (N–H, O–H) and acceptors (O, and N of a ring without hydrogen), not near in the chain.

    The oxygens of a carboxylate are one acceptor, the hydrogens of an atom one donor.
    """
    near, element = atoms.neighbours, atoms.element
    heavy = [i for i in sorted(near) if element(i) in ("N", "O")]
    donors = {i: tuple(sorted(j for j in near[i] if element(j) == "H")) for i in heavy}
    groups: dict[frozenset[int], tuple[int, ...]] = {}
    for i in heavy:
        if element(i) == "O" or (not donors[i] and len(near[i]) == 2):
            twins = [j for c in near[i] for j in near[c] if element(j) == element(i) == "O" and len(near[j]) == 1]
            group = tuple(sorted(twins)) if len(near[i]) == 1 and len(twins) > 1 else (i,)
            groups[frozenset(group)] = group
    return [
        HydrogenBond(
            label=f"{atoms.name(donor)} → {atoms.name(group[0])}{' (COO⁻)' if len(group) > 1 else ''}",
            donor=donor,
            hydrogens=hydrogens,
            acceptors=group,
        )
        for donor, hydrogens in donors.items()
        for group in groups.values()
        if hydrogens and min(_bonds_between(atoms, donor, a) for a in group) > NEAR
    ]


def _bonds_between(atoms: AtomLookup, first: int, second: int) -> int:
    """Bonds on the shortest way between two atoms, at most `NEAR` + 1."""
    reached = {first}
    for count in range(NEAR + 1):
        if second in reached:
            return count
        reached |= {j for i in reached for j in atoms.neighbours[i]}
    return NEAR + 1
