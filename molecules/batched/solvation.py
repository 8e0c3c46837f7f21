"""Generalised Born solvation and its gradients in closed form, on tiles of many conformations.

Layout, units and names of the tables: `molecules.batched.terms`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .pairs import Pairs
from .vectors import at_i, at_j, columns, diagonal, per_pair, per_row

Tables = Mapping[str, Tensor]


class Born(NamedTuple):
    """1/B (T, N, L), its derivative by the pair sum I, and dI_i/dr_ij / r_ij (T, N, N, L)."""

    inverse: Tensor
    by_sum: Tensor
    slope: Tensor


def born_radii(tables: Tables, pairs: Pairs) -> Born:
    """Born radii from pairwise descreening: with `born_constants` by a tanh of it, without as it is (HCT).

    Source: Hawkins, Cramer & Truhlar 1996; Onufriev, Bashford & Case 2004 (OBC), eq. 6.
    """
    own, scaled = at_i(per_row(tables["born_own"])), at_j(per_row(tables["born_scaled"]))
    r = pairs.r2 * pairs.inverse
    upper = 1 / (r + scaled)
    longest = torch.maximum(own, (r - scaled).abs())
    lower = 1 / longest
    squares = upper * upper - lower * lower
    log = torch.log(longest * upper) * pairs.inverse
    ratio = scaled * scaled * pairs.inverse
    inside = pairs.r2 < per_pair(tables["born_cutoff2"])
    near = inside & (r + scaled >= own)
    # j around all of i: GBSAOBCForce adds what makes the integral exact, the CustomGBForce leaves it out.
    around = scaled - r > own
    engulfed: Tensor | float = tables["born_constants"][3] if "born_constants" in tables else 0.0
    value = 0.5 * (lower - upper) + 0.125 * (r - ratio) * squares + 0.25 * log
    value = value + torch.where(around, engulfed * (1 / own - lower), 0.0)
    slope = (0.125 * (1 + ratio * pairs.inverse) * squares - 0.25 * log * pairs.inverse) * pairs.inverse
    slope = slope + torch.where(around, (1 - engulfed) * lower * lower, 0.0) * pairs.inverse
    value, slope = torch.where(near, value, 0.0), torch.where(near, slope, 0.0)
    if "neck_height" in tables:
        neck, neck_slope = _neck(tables, pairs, r)
        value, slope = value + torch.where(inside, neck, 0.0), slope + torch.where(inside, neck_slope, 0.0)
    total, own, radius = value.sum(2), per_row(tables["born_own"]), per_row(tables["born_radius"])
    if "born_constants" not in tables:
        return Born(1 / own - total, -torch.ones_like(total), slope)
    if "born_series" in tables:
        alpha, beta, gamma = (per_row(column) for column in columns(tables["born_series"]))
    else:
        alpha, beta, gamma, _ = tables["born_constants"].unbind()
    psi = own * total
    tanh = torch.tanh(psi * (alpha - psi * (beta - gamma * psi)))
    by_psi = (1 - tanh * tanh) * (alpha - psi * (2 * beta - 3 * gamma * psi))
    return Born(1 / own - tanh / radius, -by_psi * own / radius, slope)


def _neck(tables: Tables, pairs: Pairs, r: Tensor) -> tuple[Tensor, Tensor]:
    """The volume between two spheres that water does not reach, a peak in r (nm), and its derivative over r.

    Source: Mongan, Simmerling, McCammon, Case & Onufriev 2007 (GBn), eq. 7.
    """
    x = r - per_pair(tables["neck_place"])
    x2 = x * x
    inverse = 1 / (1 + 100 * x2 + 0.3e6 * x2 * x2 * x2)
    value = per_pair(tables["neck_height"]) * inverse
    slope = -value * inverse * x * (200 + 1.8e6 * x2 * x2) * pairs.inverse
    reached = r <= per_pair(tables["neck_reach"])
    return torch.where(reached, value, 0.0), torch.where(reached, slope, 0.0)


def solvation(tables: Tables, pairs: Pairs, born: Born) -> tuple[Tensor, Tensor, Tensor]:
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
    self_product = diagonal(tables["born_product"])
    by_self = 0.5 * self_product
    if "born_kappa" in tables:
        kappa, ions = tables["born_kappa"], per_pair(tables["born_ions"])
        salt = torch.exp(-kappa / inverse_f)
        screened = salt * (ions * inverse_f - per_pair(tables["born_ions_shift"]))
        pair = pair + torch.where(inside, screened, 0.0)
        cubed = cubed + torch.where(inside, (salt * ions * inverse_f * inverse_f + kappa * screened) * inverse_f, 0.0)
        own_salt = torch.exp(-kappa * radius) * diagonal(tables["born_ions"])
        self_product = self_product + own_salt
        by_self = 0.5 * self_product + 0.5 * own_salt * kappa * radius
    slope = cubed * (0.25 * exponential - 1)
    # By 1/B_i, times B_i: decay (1 + exponent) / 2 is B_i · d(f²/2)/dB_i.
    by_inverse = (0.5 * cubed * decay * (1 + exponent)).sum(2) * radius
    area = per_row(tables["born_surface"]) * (per_row(tables["born_radius"]) * born.inverse) ** 6
    energy = 0.5 * pair.sum((1, 2)) + (0.5 * self_product * born.inverse + area).sum(1)
    by_inverse = by_inverse + by_self + 6 * area * radius
    return energy, slope, by_inverse * born.by_sum
