"""A z-matrix of any molecule from its bonds, and the usual values of its coordinates from frames.

Heavy atoms are placed first, from the middle of the molecule outwards, then hydrogens, unless one is needed. An atom
that closes a ring has its angle to the other atom that it is bonded to: with its bond, that tells the length of the
closing bond, which so is one coordinate given a distance that is known. Three atoms in a row place nothing: references
are chosen such that the angles between them are bent.

Shapes: F frames, N atoms. Units: nm, rad.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from .zmatrix import IntArray, levels

Floats = npt.NDArray[np.float64]

BENT = math.radians(15), math.radians(165)  # mean angles that place an atom well
# rad: a torsion that deviates more from its mean is measured around the circle. One from a sibling rarely does; one
# about a bond that turns may not have turned yet, when double bonds deviate by 0.2.
FREE_SIBLING, FREE = 0.6, 0.25
LEAST = (2e-4, 5e-3, 5e-3)  # nm, rad: of a deviation; short simulations underestimate it


def graph_tables(elements: Sequence[str], bonds: Iterable[tuple[int, int]], frames_nm: Floats) -> dict[str, np.ndarray]:
    """Tables of a molecule for a flow of internal coordinates, as `Peptide.internal` has them.

    Shape: frames_nm (F, N, 3), some tens that show how the molecule moves.
    Raises: ValueError for atoms that are not one connected molecule, or fewer than four.
    """
    if len(elements) < 4:
        raise ValueError(f"the molecule has {len(elements)} atoms: give one of four or more")
    graph = _Graph(elements, bonds, frames_nm)
    z_matrix, order = _z_matrix(graph)
    siblings = np.array([q in graph.neighbours[p] for p, _, q in z_matrix])
    mean, scale, rotatable = _usual_values(internal_values(frames_nm, z_matrix), z_matrix, siblings)
    return {
        "z_matrix": z_matrix,
        "rotatable": rotatable,
        "level": levels(z_matrix),
        "placement": np.array(order, np.int64),
        "permutation": np.arange(len(elements)),
        "mean": mean.round(5),
        "scale": scale.round(5),
    }


def internal_values(frames_nm: Floats, z_matrix: IntArray) -> Floats:
    """Bond, angle and torsion of each atom in each frame (F, N, 3), 0 where it has none."""
    x = np.asarray(frames_nm, np.float64)
    p, g, q = (x[:, z_matrix[:, k]] for k in range(3))
    u, v, w = x - p, g - p, q - g
    n1, n2 = np.cross(v, u), np.cross(v, w)
    with np.errstate(invalid="ignore", divide="ignore"):
        bond = np.linalg.norm(u, axis=-1)
        angle = np.arctan2(np.linalg.norm(np.cross(u, v), axis=-1), (u * v).sum(-1))
        torsion = np.arctan2((np.cross(n1, n2) * v).sum(-1) / np.linalg.norm(v, axis=-1), (n1 * n2).sum(-1))
    return np.where(z_matrix >= 0, np.stack([bond, angle, torsion], -1), 0.0)


def _usual_values(
    values: Floats, z_matrix: IntArray, siblings: npt.NDArray[np.bool_]
) -> tuple[Floats, Floats, IntArray]:
    """Means and deviations (N, 3), and which torsions turn freely (N,); `siblings`: those from an atom on the same."""
    mean, scale = values.mean(0), np.maximum(values.std(0), LEAST)
    direction = np.exp(1j * values[..., 2]).mean(0)
    mean[:, 2] = np.angle(direction)
    away = np.mod(values[..., 2] - mean[:, 2] + math.pi, 2 * math.pi) - math.pi
    spread = np.sqrt(np.square(away).mean(0))
    rotatable = (spread > np.where(siblings, FREE_SIBLING, FREE)) & (z_matrix[:, 2] >= 0)
    scale[:, 2] = np.where(rotatable, 1.0, np.maximum(spread, LEAST[2]))
    missing = z_matrix < 0
    return np.where(missing, 0.0, mean), np.where(missing, 1.0, scale), rotatable.astype(np.int64)


class _Graph:
    """Atoms with their neighbours, and mean angles between them."""

    def __init__(self, elements: Sequence[str], bonds: Iterable[tuple[int, int]], frames_nm: Floats) -> None:
        self.n, self.frames = len(elements), np.asarray(frames_nm, np.float64)
        self._bent: dict[tuple[int, int, int], bool] = {}
        self.heavy = [element != "H" for element in elements]
        self.neighbours: list[list[int]] = [[] for _ in elements]
        for a, b in bonds:
            self.neighbours[a].append(b)
            self.neighbours[b].append(a)
        for near in self.neighbours:
            near.sort(key=lambda i: (not self.heavy[i], i))

    def distances(self, start: int) -> list[int]:
        """Bonds from an atom to each other, −1 for those that it is not connected to."""
        found = [-1] * self.n
        found[start], queue = 0, [start]
        for i in queue:
            for j in self.neighbours[i]:
                if found[j] < 0:
                    found[j] = found[i] + 1
                    queue.append(j)
        return found

    def is_bent(self, a: int, b: int, c: int) -> bool:
        """Return whether the mean angle a-b-c is far from 0 and from 180°, and stays so."""
        if (a, b, c) not in self._bent:
            u, v = self.frames[:, a] - self.frames[:, b], self.frames[:, c] - self.frames[:, b]
            angle = np.arctan2(np.linalg.norm(np.cross(u, v), axis=-1), (u * v).sum(-1))
            self._bent[a, b, c] = bool(BENT[0] < angle.mean() < BENT[1] and angle.std() < 0.5)
        return self._bent[a, b, c]

    def root(self) -> tuple[int, int, int]:
        """Three bonded atoms in the middle, heavy ones where there are; the second is bonded to both."""
        reach = [max(self.distances(i)) for i in range(self.n)]

        def rank(trio: tuple[int, int, int]) -> tuple[int, int, int, int]:
            a, b, c = trio
            return sum(not self.heavy[i] for i in trio), reach[b] + reach[a] + reach[c], b, a

        trios = [
            (a, b, c)
            for b, near in enumerate(self.neighbours)
            for a in near
            for c in near
            if a < c and self.is_bent(a, b, c)
        ]
        if not trios:
            raise ValueError("all bonds of the molecule are in one line: it has no torsion to sample")
        return min(trios, key=rank)


def _z_matrix(graph: _Graph) -> tuple[IntArray, list[int]]:
    """References (N, 3) of each atom, and the order of placement."""
    if min(graph.distances(0)) < 0:
        raise ValueError("the atoms are not one connected molecule: check its bonds")
    first, second, third = graph.root()
    z_matrix = np.full((graph.n, 3), -1)
    z_matrix[second, 0] = first
    z_matrix[third, :2] = second, first
    order, parent, children = [first, second, third], {first: second, second: first, third: second}, {second: [third]}
    while len(order) < graph.n:
        for i, p in _next_atoms(graph, order):
            if references := _references(graph, i, p, order, parent, children):
                break
        else:
            raise ValueError("all atoms of a part of the molecule are in one line: angles cannot place what follows")
        z_matrix[i] = references
        parent[i] = p
        children.setdefault(p, []).append(i)
        order.append(i)
    return z_matrix, order


def _next_atoms(graph: _Graph, order: list[int]) -> Iterator[tuple[int, int]]:
    """Atoms that are bonded to a placed one, and that one, which was placed first; heavy ones come first."""
    placed = set(order)
    for heavy in (True, False):
        for p in order:
            yield from ((i, p) for i in graph.neighbours[p] if i not in placed and graph.heavy[i] == heavy)


def _references(
    graph: _Graph, i: int, p: int, order: list[int], parent: dict[int, int], children: dict[int, list[int]]
) -> tuple[int, int, int] | None:
    """Atoms (p, g, q) that place atom i, which is bonded to p: such that i-p-g and p-g-q are bent, as near as can be.

    None where all that are placed are in one line with it.
    """
    closing = [r for r in order if r in graph.neighbours[i] and r != p]
    beside = children.get(p, [])
    from_p = graph.distances(p)
    near = sorted((j for j in order if j != p), key=lambda j: (from_p[j], j))
    for g in dict.fromkeys([*closing, parent[p], *near]):
        if not graph.is_bent(i, p, g):
            continue
        # A torsion from a sibling is stiff, and from the atom behind g it is the one that chemists know.
        likely = [*beside, parent[g], *near] if g == parent[p] else [parent[p], *beside, *near]
        for q in dict.fromkeys(likely):
            if q not in (p, g) and graph.is_bent(p, g, q):
                return p, g, q
    return None
