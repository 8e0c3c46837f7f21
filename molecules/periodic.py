"""Molecules in a periodic box, whose atoms a trajectory may have put on opposite edges."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def make_whole(positions: Array, box: Array, bonds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Put each atom at the periodic image that is next to an atom that it is bonded to.

    Shape: (T, N, 3), box (T, 3, 3) as rows -> (T, N, 3).
    """
    x, inverse = np.array(positions, np.float64), np.linalg.inv(box)
    for parent, atom in _tree(bonds, x.shape[1]):
        shift = np.round(np.einsum("ti,tij->tj", x[:, atom] - x[:, parent], inverse))
        x[:, atom] -= np.einsum("ti,tij->tj", shift, box)
    return x


def _tree(bonds: NDArray[np.int64], n_atoms: int) -> Sequence[tuple[int, int]]:
    """Pairs (parent, atom) that reach every atom from the first one of its molecule, parents before their atoms."""
    near: list[list[int]] = [[] for _ in range(n_atoms)]
    for a, b in bonds.tolist():
        near[a].append(b)
        near[b].append(a)
    seen: set[int] = set()
    pairs: list[tuple[int, int]] = []
    for start in range(n_atoms):  # of every molecule
        if start not in seen:
            pairs += _reach(start, near, seen)
    return pairs


def _reach(start: int, near: list[list[int]], seen: set[int]) -> list[tuple[int, int]]:
    reached, pairs = [start], []
    seen.add(start)
    for parent in reached:
        for atom in near[parent]:
            if atom not in seen:
                seen.add(atom)
                reached.append(atom)
                pairs.append((parent, atom))
    return pairs
