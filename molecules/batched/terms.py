"""The terms of the force field and their gradients in closed form, on tiles of many conformations.

Layout: the conformations lie innermost. A coordinate is (T, N, L): T tiles of L conformations; a vector is
its three coordinates. A pair term is (T, N, N, L), every pair twice: so each atom sums its own row, which a
compiler turns into one loop with the sum in registers, and nothing is scattered. Tables are those of one
peptide, or have the layout of the conformations, when these are of several. torch only.

Units: nm, kJ/mol, rad. Names of the tables: `molecules.batched.tables`.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .dihedrals import impropers, maps, torsions
from .pairs import Pairs, all_pairs, nonbonded
from .solvation import born_radii, solvation
from .vectors import Vector, at_i, at_j, columns, cross, dot, minus, per_row, plus, scaled_by, take, vector

Tables = Mapping[str, Tensor]
# OpenMM, too, takes the area of an angle's triangle as at least this (nm²) where it divides by it.
_MIN_AREA = 1e-6


def potential(tables: Tables, x: Tensor, gradient: bool) -> tuple[dict[str, Tensor], Tensor | None]:
    """Energy by the name of the OpenMM force, and the gradient of their sum; a force without tables is left out.

    Shape: x (T, 3, N, L) → energies (T, L), gradient (T, 3, N, L). Units: kJ/mol, kJ/mol/nm.
    """
    atoms = vector(x.unbind(1))
    energies: dict[str, Tensor] = {}
    arms: list[Vector] = []
    for kind, (name, term) in BONDED.items():
        if f"{kind}_atoms" in tables:
            energies[name], rows = term(tables, atoms)
            arms += rows
    has_pairs = "born_own" in tables or "pair_cutoff2" in tables
    pairs = all_pairs(atoms) if has_pairs else None
    slope = None if pairs is None else _pair_terms(tables, pairs, energies)
    if not gradient:
        return energies, None
    sums = [] if pairs is None or slope is None else [(slope * d).sum(2) for d in pairs.d]
    if arms:
        bonded = [_gather(rows, tables["slots"]) for rows in zip(*arms, strict=True)]
        sums = [by_pairs + by_rows for by_pairs, by_rows in zip(sums, bonded, strict=True)] if sums else bonded
    return energies, torch.stack(sums, 1)


def _pair_terms(tables: Tables, pairs: Pairs, energies: dict[str, Tensor]) -> Tensor:
    """Add the energies of all pairs to those of bonds; dE/dr / r (T, N, N, L)."""
    if "born_own" not in tables:
        energies["NonbondedForce"], slope = nonbonded(tables, pairs)
        return slope
    born = born_radii(tables, pairs)
    if "pair_cutoff2" in tables:
        energies["NonbondedForce"], pair_slope = nonbonded(tables, pairs)
        energies["GBForce"], slope, chain = solvation(tables, pairs, born)
        slope = pair_slope + slope
    else:
        energies["GBForce"], slope, chain = solvation(tables, pairs, born)
    return slope + at_i(chain) * born.slope + at_j(chain) * born.slope.transpose(1, 2)


def _gather(rows: tuple[Tensor, ...], slots: Tensor) -> Tensor:
    """Sum for every atom of the rows that act on it; the zeros at the end are for unused slots."""
    stacked = torch.cat([*rows, torch.zeros_like(rows[0][:, :1])], 1)
    if slots.ndim == 2:
        return stacked[:, slots].sum(1)
    return stacked.gather(1, slots.flatten(1, 2)).reshape(slots.shape).sum(1)


def _bonds(tables: Tables, x: Vector) -> tuple[Tensor, list[Vector]]:
    i, j = (take(x, column) for column in columns(tables["bond_atoms"]))
    d = minus(i, j)
    r = dot(d, d).sqrt()
    k, stretch = per_row(tables["bond_k"]), r - per_row(tables["bond_length"])
    on_i = scaled_by(k * stretch / r, d)
    return (0.5 * k * stretch * stretch).sum(1), [on_i, scaled_by(-1.0, on_i)]


def _angles(tables: Tables, x: Vector) -> tuple[Tensor, list[Vector]]:
    i, j, k = (take(x, column) for column in columns(tables["angle_atoms"]))
    u, v = minus(i, j), minus(k, j)
    normal = cross(u, v)
    area = dot(normal, normal).sqrt()
    stiffness = per_row(tables["angle_k"])
    # atan2 is as exact near 0 and 180 degrees as elsewhere; acos is not, in float32.
    bend = torch.atan2(area, dot(u, v)) - per_row(tables["angle_theta"])
    slope = stiffness * bend / area.clamp_min(_MIN_AREA)
    on_i = scaled_by(slope / dot(u, u), cross(u, normal))
    on_k = scaled_by(slope / dot(v, v), cross(normal, v))
    on_j = scaled_by(-1.0, plus(on_i, on_k))
    return (0.5 * stiffness * bend * bend).sum(1), [on_i, on_j, on_k]


# Bonded terms by the name of their tables, in the order of the rows of their gradients: OpenMM's name, the function.
BONDED: dict[str, tuple[str, Callable[[Tables, Vector], tuple[Tensor, list[Vector]]]]] = {
    "bond": ("HarmonicBondForce", _bonds),
    "angle": ("HarmonicAngleForce", _angles),
    "torsion": ("PeriodicTorsionForce", torsions),
    "improper": ("CustomTorsionForce", impropers),
    "cmap": ("CMAPTorsionForce", maps),
}
