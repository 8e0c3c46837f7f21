"""Terms of all pairs of atoms, on tiles of many conformations: Lennard-Jones and Coulomb.

Layout, units and names of the tables: `molecules.batched.terms`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .vectors import Vector, at_i, at_j, dot, per_pair, vector

Tables = Mapping[str, Tensor]


class Pairs(NamedTuple):
    """x_i − x_j, its square and the inverse of its length; 1 instead of 0 on the diagonal."""

    d: Vector
    r2: Tensor
    inverse: Tensor


def all_pairs(x: Vector) -> Pairs:
    """Every pair twice: (T, N, N, L)."""
    d = vector([at_i(c) - at_j(c) for c in x])
    n = x[0].shape[1]
    index = torch.arange(n, device=x[0].device)
    r2 = dot(d, d) + per_pair(index[:, None] == index)
    return Pairs(d, r2, torch.rsqrt(r2))


def nonbonded(tables: Tables, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Lennard-Jones and Coulomb, truncated, the latter with a reaction field; slope is dE/dr / r."""
    inverse2 = pairs.inverse * pairs.inverse
    inverse6 = inverse2 * inverse2 * inverse2
    # Table first: an excluded pair of atoms that all but coincide is 0, not 0 times inf.
    r12 = per_pair(tables["lj12"]) * inverse6 * inverse6
    r6 = per_pair(tables["lj6"]) * inverse6
    coulomb = per_pair(tables["charge_product"]) * pairs.inverse
    inside = pairs.r2 < per_pair(tables["pair_cutoff2"])
    lj, by_r = r12 - r6, 6 * r6 - 12 * r12
    if "switch_start" in tables:
        lj, by_r = _switched(tables, pairs, lj, by_r)
    energy, slope = lj + coulomb - per_pair(tables["charge_shift"]), (by_r - coulomb) * inverse2
    if "charge_field" in tables:
        field = per_pair(tables["charge_field"])
        energy, slope = energy + field * pairs.r2, slope + 2 * field
    return 0.5 * torch.where(inside, energy, 0.0).sum((1, 2)), torch.where(inside, slope, 0.0)


def _switched(tables: Tables, pairs: Pairs, lj: Tensor, by_r: Tensor) -> tuple[Tensor, Tensor]:
    """The energy, and r times its derivative, brought to 0 from `switch_start` on; that is inf for exceptions."""
    r, rate = pairs.r2 * pairs.inverse, tables["switch_rate"]
    x = ((r - per_pair(tables["switch_start"])) * rate).clamp(0.0, 1.0)
    switch = 1 + x * x * x * (x * (15 - 6 * x) - 10)
    by_x = -30 * x * x * (1 - x) * (1 - x)
    return switch * lj, switch * by_r + by_x * rate * r * lj
