"""Distances between atoms that are one or two bonds apart: what a conformation can have, by the force field.

`python -m boltzray.molecules.distance_limits` writes the table again (some seconds); needs OpenMM. Its rows are of a
residue (`ALA CA CB`) or of two in sequence (`- C N`): the shortest and the longest equilibrium distance, of any place
in the chain, and the largest thermal spread at 310 K.
Shapes: T frames, N atoms, K pairs. Units: nm.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .constants import COVALENT_NM, KB, PUBLISHED_K
from .forcefield import DEFAULT_FORCEFIELD
from .peptide import Peptide
from .residues import ONE_LETTER, STATES
from .storage import replacing

TABLE = Path(__file__).with_name("distance_limits.json")
SPREADS = 4.8  # thermal standard deviations from the mean; more, and atoms could move by 0.06 nm unseen
SLACK_NM = 0.001  # constraints, rounding
OTHER_SLACK_NM = 0.015  # of another family of force fields, whose bonds and angles are a little different
SHORT, LONG = 0.6, 1.5  # of the sum of covalent radii, for bonds that the table lacks
CHUNK = 256  # frames: their distances stay in a core's cache
_NEXT = "-"  # the name of a pair over the peptide bond


@dataclass(frozen=True, eq=False)
class DistanceLimits:
    """Pairs of atoms (2, K) of a peptide, and the least and the largest square of their distance (K, 1). Units: nm².

    One frame in 30,000 of MD is beyond them.
    """

    pairs: NDArray[np.int16]
    least: NDArray[np.float32]
    largest: NDArray[np.float32]

    @classmethod
    def of(
        cls, peptide: Peptide, temperature_k: float = PUBLISHED_K, forcefield: str = DEFAULT_FORCEFIELD
    ) -> "DistanceLimits":
        """The limits for frames of a peptide, in its order of atoms, at a temperature in a force field.

        Of other atoms than those of the twenty residues bonds are limited by covalent radii, and angles not at all.
        """
        named, order = peptide.iupac(), peptide.iupac_order
        atoms = list(named.topology.atoms())
        bonded = {tuple(sorted((a.index, b.index))) for a, b in named.topology.bonds()}
        widen = math.sqrt(max(temperature_k, PUBLISHED_K) / PUBLISHED_K)
        slack = SLACK_NM if forcefield.startswith("amber") else OTHER_SLACK_NM
        rows = []
        for i, j in _near(bonded):
            if found := _table().get(_name(atoms[i], atoms[j])):
                least, largest, spread = found
                room = SPREADS * spread * widen + slack
                rows.append((order[i], order[j], max(least - room, 0.0) ** 2, (largest + room) ** 2))
            elif (i, j) in bonded:
                usual = sum(COVALENT_NM.get(atoms[k].element.symbol, 0.1) for k in (i, j))
                rows.append((order[i], order[j], (SHORT * usual) ** 2, (LONG * usual) ** 2))
        table = np.array(rows).reshape(-1, 4)
        pairs, squares = np.ascontiguousarray(table[:, :2].T, np.int16), table[:, 2:].astype(np.float32)
        return cls(pairs, squares[:, :1].copy(), squares[:, 1:].copy())

    def broken(self, x: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which frames (T, N, 3) have a distance that cannot be, or is not finite. Shape: (T,)."""
        result = np.zeros(len(x), bool)
        for low in range(0, len(x), CHUNK):
            by_atom = np.ascontiguousarray(x[low : low + CHUNK].transpose(1, 2, 0))
            with np.errstate(over="ignore", invalid="ignore"):
                apart = by_atom[self.pairs[0]]
                apart -= by_atom[self.pairs[1]]
                square = np.einsum("kct,kct->kt", apart, apart)
                sound = (square >= self.least) & (square <= self.largest)  # false for NaN
            result[low : low + CHUNK] = ~sound.all(axis=0)
        return result


@cache
def _table() -> dict[str, tuple[float, float, float]]:
    return {name: tuple(row) for name, row in json.loads(TABLE.read_text()).items()}


def _name(one: Any, other: Any) -> str:
    """The name of a pair of atoms, whatever their order."""
    first, second = sorted((one, other), key=lambda atom: (atom.residue.index, atom.name))
    kind = first.residue.name if first.residue.index == second.residue.index else _NEXT
    return f"{kind} {first.name} {second.name}"


def _near(bonded: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs of atoms, in ascending order, that are one or two bonds apart."""
    neighbours: dict[int, set[int]] = defaultdict(set)
    for i, j in bonded:
        neighbours[i].add(j)
        neighbours[j].add(i)
    return sorted(bonded | {pair for others in neighbours.values() for pair in combinations(sorted(others), 2)})


def derive() -> dict[str, list[float]]:
    """Equilibrium distances and thermal spreads, of every residue at every place in a chain.

    Those of the bonds and angles of the force field, and of a minimised structure: rings are strained.
    """
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    chains = [f for x in ONE_LETTER.values() for f in (f"{x}A", f"A{x}A", f"A{x}", f"P{x}P")]
    chains += [f"ALA-{state}-ALA" for state in STATES] + [f"PRO-{state}-PRO" for state in STATES]
    chains += [f for x in ("HID", "HIP") for f in (f"{x}-ALA", f"ALA-{x}")]  # ff14SB has no ASH and GLH at an end
    chains += [f"ACE-{x}-NME" for x in "AGP"]
    for sequence in chains:
        for name, mean, spread in _distances(Peptide.from_sequence(sequence)):
            found[name].append((mean, spread))
    return {
        name: [round(f(x for x, _ in rows), 4) for f in (min, max)] + [round(max(s for _, s in rows), 4)]
        for name, rows in sorted(found.items())
    }


def _distances(peptide: Peptide) -> Iterator[tuple[str, float, float]]:
    """Name, distance and spread of each pair of a peptide: by bonds and angles, and in a minimised structure."""
    import openmm
    from openmm import unit

    from .dynamics import minimised
    from .forcefield import create_system
    from .runs import MDConfig

    atoms, kt = list(peptide.topology.atoms()), KB * PUBLISHED_K
    bonds: dict[tuple[int, int], tuple[float, float]] = {}
    angles: list[tuple[int, int, int, float, float]] = []
    system = create_system(peptide)  # kept: its forces go with it
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            for k in range(force.getNumBonds()):
                i, j, length, stiffness = force.getBondParameters(k)
                value = length.value_in_unit(unit.nanometer)
                k_b = stiffness.value_in_unit(unit.kilojoule_per_mole / unit.nanometer**2)
                bonds[i, j] = bonds[j, i] = value, math.sqrt(kt / k_b)
        elif isinstance(force, openmm.HarmonicAngleForce):
            for k in range(force.getNumAngles()):
                i, j, end, angle, stiffness = force.getAngleParameters(k)
                k_a = stiffness.value_in_unit(unit.kilojoule_per_mole / unit.radian**2)
                angles.append((i, j, end, angle.value_in_unit(unit.radian), math.sqrt(kt / k_a)))
    x = minimised(peptide, MDConfig())
    for (i, j), (length, spread) in bonds.items():
        if i < j:
            for value in (length, float(np.linalg.norm(x[i] - x[j]))):
                yield _name(atoms[i], atoms[j]), value, spread
    for i, j, end, angle, by_angle in angles:
        (a, of_a), (b, of_b) = bonds[i, j], bonds[j, end]
        d = math.sqrt(a * a + b * b - 2 * a * b * math.cos(angle))
        along = (a - b * math.cos(angle)) / d, (b - a * math.cos(angle)) / d, a * b * math.sin(angle) / d
        spread = math.sqrt(sum((s * t) ** 2 for s, t in zip(along, (of_a, of_b, by_angle), strict=True)))
        for value in (d, float(np.linalg.norm(x[i] - x[end]))):
            yield _name(atoms[i], atoms[end]), value, spread


if __name__ == "__main__":
    with replacing(TABLE) as temporary:
        temporary.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {v}" for k, v in derive().items()) + "\n}\n")
