"""Planar groups that have turned round, so that atoms of one kind stand in each other's places.

The amides of ASN and GLN and the guanidinium of ARG do so once in a long while; of frames from weighted draws of a flow
that had learned from hot starts 5 % (ASN) to 40 % (ARG) were turned. It is the same molecule, with the same energy: a
copy of the conformation in which atoms are named by where they stand. A flow that draws few copies would give them half
of all weight, and one that draws all has to learn 2 densities, or of ARG 8.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from openmm.app import Topology

from .stereo import exchangeable

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class PlanarGroup:
    """A group by the indices of its atoms: two of one kind, their centre, its neighbour and one beyond.

    Turned round, the atoms of each of `pairs` stand in each other's places: the two, and what hangs on them. `sense` is
    ±1, as in the wwPDB's components.
    """

    atoms: tuple[int, int, int, int, int]
    pairs: tuple[tuple[int, int], ...]
    sense: int

    def turned(self, x: Floats) -> npt.NDArray[np.bool_]:
        """Tell frames (B, N, 3), in any unit, in which it is turned round: (B,)."""
        first, second, centre, third, beyond = (x[:, atom] for atom in self.atoms)
        axis = third - centre
        sides = np.cross(axis, first - second), np.cross(axis, beyond - third)
        found: npt.NDArray[np.bool_] = np.sign((sides[0] * sides[1]).sum(-1)) == -self.sense
        return found


def planar_groups(topology: Topology) -> tuple[PlanarGroup, ...]:
    """Planar groups of a peptide whose atoms have IUPAC's names, those that hold others first."""
    found = []
    for residue in topology.residues():
        at = {atom.name: atom.index for atom in residue.atoms()}
        for one in exchangeable(residue.name):
            if one.before is not None and one.needed <= at.keys():
                names = (one.first[0], one.second[0], one.centre, one.third, one.before)
                pairs = tuple((at[a], at[b]) for a, b in zip(one.first, one.second, strict=True))
                first, second, centre, third, beyond = (at[name] for name in names)
                found.append(PlanarGroup((first, second, centre, third, beyond), pairs, one.sense))
    return tuple(found)


def turned(groups: Iterable[PlanarGroup], x: Floats) -> npt.NDArray[np.bool_]:
    """Tell frames (B, N, 3), in any unit, in which any group is turned round: (B,)."""
    found = np.zeros(len(x), bool)
    for group in groups:
        found |= group.turned(x)
    return found


def named_by_place(groups: Iterable[PlanarGroup], x: Floats) -> Floats:
    """Frames (B, N, 3) with their atoms named by where they stand: those of turned groups exchanged, in a copy."""
    x = x.copy()
    for group in groups:
        rows = np.flatnonzero(group.turned(x))[:, None]
        if rows.size:
            pairs = np.array(group.pairs)
            x[rows, pairs.ravel()] = x[rows, pairs[:, ::-1].ravel()]
    return x
