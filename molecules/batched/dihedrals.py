"""Terms in dihedral angles, on tiles of many conformations: Fourier series, harmonic impropers, maps of two angles.

Layout, units and names of the tables: `molecules.batched.terms`.
"""

from collections.abc import Mapping
from math import pi
from typing import NamedTuple

import torch
from torch import Tensor

from .vectors import Vector, columns, cross, dot, minus, per_row, plus, scaled_by, take

Tables = Mapping[str, Tensor]


class Dihedral(NamedTuple):
    """Of atoms i, j, k, m: i − j, k − j, k − m, their normals, and the cosine and sine of the angle."""

    a: Vector
    b: Vector
    c: Vector
    p: Vector
    q: Vector
    pp: Tensor
    qq: Tensor
    bb: Tensor
    length: Tensor
    cos: Tensor
    sin: Tensor


def dihedral(x: Vector, atoms: tuple[Tensor, ...]) -> Dihedral:
    """The dihedral of four columns of atoms."""
    i, j, k, m = (take(x, column) for column in atoms)
    a, b, c = minus(i, j), minus(k, j), minus(k, m)
    p, q = cross(a, b), cross(b, c)
    pp, qq, bb = dot(p, p), dot(q, q), dot(b, b)
    length = bb.sqrt()
    scale = torch.rsqrt(pp) * torch.rsqrt(qq)
    return Dihedral(a, b, c, p, q, pp, qq, bb, length, dot(p, q) * scale, dot(a, q) * length * scale)


def arms(d: Dihedral, slope: Tensor) -> list[Vector]:
    """Gradient on the four atoms, from the derivative by the angle. Source: Blondel & Karplus 1996."""
    on_i, on_m = scaled_by(slope * d.length / d.pp, d.p), scaled_by(-slope * d.length / d.qq, d.q)
    along = minus(scaled_by(dot(d.a, d.b) / d.bb, on_i), scaled_by(dot(d.c, d.b) / d.bb, on_m))
    on_j, on_k = minus(along, on_i), scaled_by(-1.0, plus(along, on_m))
    return [on_i, on_j, on_k, on_m]


def torsions(tables: Tables, x: Vector) -> tuple[Tensor, list[Vector]]:
    """Fourier series in the dihedral φ by the recurrence of cos nφ and sin nφ: no inverse functions."""
    d = dihedral(x, columns(tables["torsion_atoms"]))
    cos, sin = d.cos, d.sin
    energy, slope = per_row(tables["torsion_constant"]), torch.zeros_like(cos)
    cos_n, sin_n = torch.ones_like(cos), torch.zeros_like(cos)
    series = zip(columns(tables["torsion_cos"]), columns(tables["torsion_sin"]), strict=True)
    for n, (k_cos, k_sin) in enumerate(series, start=1):
        cos_n, sin_n = cos_n * cos - sin_n * sin, sin_n * cos + cos_n * sin
        energy = energy + per_row(k_cos) * cos_n + per_row(k_sin) * sin_n
        slope = slope + n * (per_row(k_sin) * cos_n - per_row(k_cos) * sin_n)
    return energy.sum(1), arms(d, slope)


def impropers(tables: Tables, x: Vector) -> tuple[Tensor, list[Vector]]:
    """k (θ − θ₀)², the difference less `improper_period` beyond π: 2π, or 0 where the force field does not wrap it."""
    d = dihedral(x, columns(tables["improper_atoms"]))
    k, period = per_row(tables["improper_k"]), per_row(tables["improper_period"])
    bend = torch.atan2(d.sin, d.cos) - per_row(tables["improper_theta"])
    bend = torch.where(bend.abs() > pi, bend - bend.sign() * period, bend)
    return (k * bend * bend).sum(1), arms(d, 2 * k * bend)


def maps(tables: Tables, x: Vector) -> tuple[Tensor, list[Vector]]:
    """Energies of two dihedrals (CMAP): a bicubic polynomial in each cell of a periodic grid.

    `cmap_coefficients` (16, cells): of u^i v^j in row 4 i + j, u and v from 0 to 1 across a cell, all maps one after
    the other; `cmap_start` and `cmap_size`: the first cell of each term's map, and cells of it along an angle.
    Source: MacKerell, Feig & Brooks 2004.
    """
    atoms = columns(tables["cmap_atoms"])
    size = per_row(tables["cmap_size"])
    ends, cells, places = [], [], []
    for d in (dihedral(x, atoms[:4]), dihedral(x, atoms[4:])):
        angle = torch.atan2(d.sin, d.cos)
        # Angle first: whole numbers by themselves would become float32.
        place = torch.where(angle < 0, angle + 2 * pi, angle) * size / (2 * pi)
        # Clamped as a whole number: what is not finite must be in the table, too, and stays so by its place.
        cell = torch.minimum(place.long().clamp_min(0), size - 1)
        ends.append(d)
        cells.append(cell)
        places.append(place - cell)
    u, v = places
    cell = per_row(tables["cmap_start"]) + cells[0] * size + cells[1]
    c = tables["cmap_coefficients"][:, cell].unbind(0)
    rows = [((c[i + 3] * v + c[i + 2]) * v + c[i + 1]) * v + c[i] for i in (0, 4, 8, 12)]
    by_v = [(3 * c[i + 3] * v + 2 * c[i + 2]) * v + c[i + 1] for i in (0, 4, 8, 12)]
    energy = ((rows[3] * u + rows[2]) * u + rows[1]) * u + rows[0]
    slope_u = (3 * rows[3] * u + 2 * rows[2]) * u + rows[1]
    slope_v = ((by_v[3] * u + by_v[2]) * u + by_v[1]) * u + by_v[0]
    slopes = (slope * size / (2 * pi) for slope in (slope_u, slope_v))
    return energy.sum(1), [row for d, slope in zip(ends, slopes, strict=True) for row in arms(d, slope)]
