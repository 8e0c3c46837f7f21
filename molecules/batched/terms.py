"""The terms of the force field and their gradients in closed form, on tiles of many conformations.

Layout: the conformations lie innermost. A coordinate is (T, N, L): T tiles of L conformations; a vector is
its three coordinates. A pair term is (T, N, N, L), every pair twice: so each atom sums its own row, which a
compiler turns into one loop with the sum in registers, and nothing is scattered. Tables are those of one
peptide, or have the layout of the conformations, when these are of several. torch only.

Units: nm, kJ/mol, rad. Names of the tables: `molecules.batched.tables`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .vectors import (
    Vector,
    at_i,
    at_j,
    columns,
    cross,
    diagonal,
    dot,
    minus,
    per_pair,
    per_row,
    plus,
    scaled_by,
    take,
    vector,
)

Tables = Mapping[str, Tensor]
# OpenMM, too, takes the area of an angle's triangle as at least this (nm²) where it divides by it.
_MIN_AREA = 1e-6


def potential(tables: Tables, x: Tensor, gradient: bool) -> tuple[dict[str, Tensor], Tensor | None]:
    """Energy by the name of the OpenMM force, and the gradient of their sum.

    Shape: x (T, 3, N, L) → energies (T, L), gradient (T, 3, N, L). Units: kJ/mol, kJ/mol/nm.
    """
    atoms = vector(x.unbind(1))
    bonds, bond_rows = _bonds(tables, atoms)
    angles, angle_rows = _angles(tables, atoms)
    torsions, torsion_rows = _torsions(tables, atoms)
    pairs = _pairs(tables, atoms)
    born = _born_radii(tables, pairs, gradient)
    nonbonded, pair_slope = _nonbonded(tables, pairs)
    solvation, born_slope, chain = _solvation(tables, pairs, born)
    energies = {
        "HarmonicBondForce": bonds,
        "HarmonicAngleForce": angles,
        "PeriodicTorsionForce": torsions,
        "NonbondedForce": nonbonded,
        "GBForce": solvation,
    }
    if not gradient:
        return energies, None
    slope = pair_slope + born_slope + at_i(chain) * born.slope + at_j(chain) * born.slope.transpose(1, 2)
    bonded = zip(*bond_rows, *angle_rows, *torsion_rows, strict=True)
    slots = tables["slots"]
    sums = [(slope * d).sum(2) + _gather(rows, slots) for d, rows in zip(pairs.d, bonded, strict=True)]
    return energies, torch.stack(sums, 1)


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


def _torsions(tables: Tables, x: Vector) -> tuple[Tensor, list[Vector]]:
    """Fourier series in the dihedral φ by the recurrence of cos nφ and sin nφ: no inverse functions.

    Source: gradient as in Blondel & Karplus 1996.
    """
    i, j, k, m = (take(x, column) for column in columns(tables["torsion_atoms"]))
    a, b, c = minus(i, j), minus(k, j), minus(k, m)
    p, q = cross(a, b), cross(b, c)
    pp, qq, bb = dot(p, p), dot(q, q), dot(b, b)
    length = bb.sqrt()
    scale = torch.rsqrt(pp) * torch.rsqrt(qq)
    cos, sin = dot(p, q) * scale, dot(a, q) * length * scale
    energy, slope = per_row(tables["torsion_constant"]), torch.zeros_like(cos)
    cos_n, sin_n = torch.ones_like(cos), torch.zeros_like(cos)
    series = zip(columns(tables["torsion_cos"]), columns(tables["torsion_sin"]), strict=True)
    for n, (k_cos, k_sin) in enumerate(series, start=1):
        cos_n, sin_n = cos_n * cos - sin_n * sin, sin_n * cos + cos_n * sin
        energy = energy + per_row(k_cos) * cos_n + per_row(k_sin) * sin_n
        slope = slope + n * (per_row(k_sin) * cos_n - per_row(k_cos) * sin_n)
    on_i, on_m = scaled_by(slope * length / pp, p), scaled_by(-slope * length / qq, q)
    along = minus(scaled_by(dot(a, b) / bb, on_i), scaled_by(dot(c, b) / bb, on_m))
    on_j, on_k = minus(along, on_i), scaled_by(-1.0, plus(along, on_m))
    return energy.sum(1), [on_i, on_j, on_k, on_m]


class _Pairs(NamedTuple):
    """x_i − x_j, its square and the inverse of its length; 1 instead of 0 on the diagonal."""

    d: Vector
    r2: Tensor
    inverse: Tensor


def _pairs(tables: Tables, x: Vector) -> _Pairs:
    d = vector([at_i(c) - at_j(c) for c in x])
    n = x[0].shape[1]
    index = torch.arange(n, device=x[0].device)
    r2 = dot(d, d) + per_pair(index[:, None] == index)
    return _Pairs(d, r2, torch.rsqrt(r2))


def _nonbonded(tables: Tables, pairs: _Pairs) -> tuple[Tensor, Tensor]:
    """Lennard-Jones and Coulomb, truncated, the latter with a reaction field; slope is dE/dr / r."""
    inverse2 = pairs.inverse * pairs.inverse
    inverse6 = inverse2 * inverse2 * inverse2
    # Table first: an excluded pair of atoms that all but coincide is 0, not 0 times inf.
    r12 = per_pair(tables["lj12"]) * inverse6 * inverse6
    r6 = per_pair(tables["lj6"]) * inverse6
    coulomb = per_pair(tables["charge_product"]) * pairs.inverse
    inside = pairs.r2 < per_pair(tables["pair_cutoff2"])
    energy = torch.where(inside, r12 - r6 + coulomb - per_pair(tables["charge_shift"]), 0.0)
    slope = torch.where(inside, (6 * r6 - 12 * r12 - coulomb) * inverse2, 0.0)
    return 0.5 * energy.sum((1, 2)), slope


class _Born(NamedTuple):
    """1/B (T, N, L), its derivative by the pair sum I, and dI_i/dr_ij / r_ij (T, N, N, L)."""

    inverse: Tensor
    by_sum: Tensor
    slope: Tensor


def _born_radii(tables: Tables, pairs: _Pairs, gradient: bool) -> _Born:
    """Born radii from pairwise descreening.

    Source: Hawkins, Cramer & Truhlar 1996; Onufriev, Bashford & Case 2004 (OBC), eq. 6.
    """
    alpha, beta, gamma, engulfed = tables["born_constants"].unbind()
    own, scaled = at_i(per_row(tables["born_own"])), at_j(per_row(tables["born_scaled"]))
    r = pairs.r2 * pairs.inverse
    upper = 1 / (r + scaled)
    longest = torch.maximum(own, (r - scaled).abs())
    lower = 1 / longest
    squares = upper * upper - lower * lower
    log = torch.log(longest * upper) * pairs.inverse
    ratio = scaled * scaled * pairs.inverse
    near = (pairs.r2 < per_pair(tables["born_cutoff2"])) & (r + scaled >= own)
    # j around all of i: GBSAOBCForce adds what makes the integral exact, the CustomGBForce leaves it out.
    around = scaled - r > own
    value = 0.5 * (lower - upper) + 0.125 * (r - ratio) * squares + 0.25 * log
    value = value + torch.where(around, engulfed * (1 / own - lower), 0.0)
    slope = (0.125 * (1 + ratio * pairs.inverse) * squares - 0.25 * log * pairs.inverse) * pairs.inverse
    slope = slope + torch.where(around, (1 - engulfed) * lower * lower, 0.0) * pairs.inverse
    own, radius = per_row(tables["born_own"]), per_row(tables["born_radius"])
    psi = own * torch.where(near, value, 0.0).sum(2)
    tanh = torch.tanh(psi * (alpha - psi * (beta - gamma * psi)))
    by_psi = (1 - tanh * tanh) * (alpha - psi * (2 * beta - 3 * gamma * psi))
    return _Born(1 / own - tanh / radius, -by_psi * own / radius, torch.where(near, slope, 0.0))


def _solvation(tables: Tables, pairs: _Pairs, born: _Born) -> tuple[Tensor, Tensor, Tensor]:
    """Generalised Born and surface energy, dE/dr / r at fixed radii, and dE/dI of every atom.

    Source: Still et al. 1990; Schaefer, Bartels & Karplus 1998 (surface term).
    """
    radius = 1 / born.inverse
    exponent = 0.25 * pairs.r2 * at_i(born.inverse) * at_j(born.inverse)
    exponential = torch.exp(-exponent)
    decay = at_i(radius) * at_j(radius) * exponential
    inverse_f = torch.rsqrt(pairs.r2 + decay)
    inside = pairs.r2 < per_pair(tables["born_cutoff2"])
    strength = per_pair(tables["born_product"]) * inverse_f
    pair = torch.where(inside, strength - per_pair(tables["born_shift"]), 0.0)
    cubed = torch.where(inside, strength * inverse_f * inverse_f, 0.0)
    slope = cubed * (0.25 * exponential - 1)
    # By 1/B_i, times B_i: decay (1 + exponent) / 2 is B_i · d(f²/2)/dB_i.
    by_inverse = (0.5 * cubed * decay * (1 + exponent)).sum(2) * radius
    self_product = diagonal(tables["born_product"])
    area = per_row(tables["born_surface"]) * (per_row(tables["born_radius"]) * born.inverse) ** 6
    energy = 0.5 * pair.sum((1, 2)) + (0.5 * self_product * born.inverse + area).sum(1)
    by_inverse = by_inverse + 0.5 * self_product + 6 * area * radius
    return energy, slope, by_inverse * born.by_sum
