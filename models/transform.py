"""Elementwise transforms of a block: affine, and a spline of the circle for rotatable dihedrals.

Their parameters come from the tokens before. Parameters of zero leave a coordinate as it is; so padding, and the
coordinates that carry the rigid motion, are masked by zeros.

Shapes: B samples, P conditions (1 or B), T tokens of D coordinates.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import spline


class CoordinateMasks(NamedTuple):
    """Kinds of internal coordinates, in a block's ordering.

    Shape: present (P, T, 3), those that are coordinates at all; stiff (P, T, 3), those of them that are no rotatable
    dihedrals; rotatable (P, T), tokens with a rotatable dihedral. `columns`: tokens that may have one in some peptide.
    """

    present: Tensor
    stiff: Tensor
    rotatable: Tensor
    columns: tuple[int, ...]

    @classmethod
    def of(cls, present: Tensor, rotatable_dihedrals: Tensor) -> "CoordinateMasks":
        """Masks in the order of the arguments. Shape: present, rotatable_dihedrals (P, T, 3)."""
        rotatable = rotatable_dihedrals[..., 2]
        # Several peptides differ in their columns, and on a GPU to look at them would be a wait at each step.
        columns = rotatable[0].nonzero()[:, 0].tolist() if len(rotatable) == 1 else range(rotatable.shape[1])
        return cls(present, present & ~rotatable_dihedrals, rotatable, tuple(columns))

    def token(self, i: int) -> "CoordinateMasks":
        """Masks of one token, which stays a dimension."""
        here = slice(i, i + 1)
        columns = (0,) if i in self.columns else ()
        return CoordinateMasks(self.present[:, here], self.stiff[:, here], self.rotatable[:, here], columns)


class Affine:
    """z = (u − b) · exp(−a). Source: TarFlow (arXiv 2412.06329)."""

    def __init__(self, dim: int) -> None:
        self.features, self.parameters = dim, 2 * dim

    def inputs(self, u: Tensor, coordinate_masks: CoordinateMasks | None) -> Tensor:
        """Features (…, D) of the coordinates for the network."""
        return u

    def forward(self, u: Tensor, p: Tensor, coordinate_masks: CoordinateMasks | None) -> tuple[Tensor, Tensor]:
        """z (…, D) and log dz/du of each coordinate, from parameters p."""
        a, b = self._parts(p, coordinate_masks)
        return (u - b) * torch.exp(-a), -a

    def inverse(self, z: Tensor, p: Tensor, coordinate_masks: CoordinateMasks | None) -> tuple[Tensor, Tensor]:
        """u (…, D) and log du/dz of each coordinate."""
        a, b = self._parts(p, coordinate_masks)
        return torch.addcmul(b, z, a.exp()), a

    def _parts(self, p: Tensor, coordinate_masks: CoordinateMasks | None) -> tuple[Tensor, Tensor]:
        a, b = p.chunk(2, dim=-1)
        return (a, b) if coordinate_masks is None else (a * coordinate_masks.present, b * coordinate_masks.present)


class Circular:
    """Affine for stiff coordinates; for a rotatable dihedral a spline of the circle, then the normal quantile.

    Only the first block has it, next to the data. An affine map would give angles beyond half a turn some probability,
    and cut the circle somewhere; a spline of the circle does neither, and may have several modes. The quantile then
    takes the circle to the line, so that the other blocks may treat the result as any other coordinate.
    """

    def __init__(self, bins: int) -> None:
        self.affine = Affine(3)
        self.features = 5
        self.parameters = self.affine.parameters + spline.parameters_per_spline(bins)

    def inputs(self, u: Tensor, coordinate_masks: CoordinateMasks | None) -> Tensor:
        """Bond, angle, and a stiff torsion itself, or a rotatable one's sine and cosine. Shape: (…, 3) → (…, 5)."""
        assert coordinate_masks is not None
        torsion, rotatable = u[..., 2], coordinate_masks.rotatable
        zero = torch.zeros_like(torsion)
        stiff = torch.where(rotatable, zero, torsion)
        sine, cosine = torch.where(rotatable, torsion.sin(), zero), torch.where(rotatable, torsion.cos(), zero)
        return torch.stack([u[..., 0], u[..., 1], stiff, sine, cosine], dim=-1)

    def forward(self, u: Tensor, p: Tensor, coordinate_masks: CoordinateMasks | None) -> tuple[Tensor, Tensor]:
        """See `Affine`."""
        assert coordinate_masks is not None
        z, slope = self.affine.forward(
            u, p[..., : self.affine.parameters], coordinate_masks._replace(present=coordinate_masks.stiff)
        )
        return self._with_dihedrals(_to_normal, u, z, slope, p, coordinate_masks)

    def inverse(self, z: Tensor, p: Tensor, coordinate_masks: CoordinateMasks | None) -> tuple[Tensor, Tensor]:
        """See `Affine`."""
        assert coordinate_masks is not None
        u, slope = self.affine.inverse(
            z, p[..., : self.affine.parameters], coordinate_masks._replace(present=coordinate_masks.stiff)
        )
        return self._with_dihedrals(_from_normal, z, u, slope, p, coordinate_masks)

    def _with_dihedrals(
        self,
        spline_map: Callable[[Tensor, spline.Knots], tuple[Tensor, Tensor]],
        before: Tensor,
        after: Tensor,
        slope: Tensor,
        p: Tensor,
        coordinate_masks: CoordinateMasks,
    ) -> tuple[Tensor, Tensor]:
        """`after` and `slope` (B, T, 3), in which rotatable dihedrals are `spline_map` of `before` instead."""
        columns = list(coordinate_masks.columns)
        if not columns:
            return after, slope
        knots = spline.knots(p[:, columns, self.affine.parameters :])
        mapped, log_slope = spline_map(before[:, columns, 2], knots)
        # A column may be one for some peptides of the batch only: the rows of others keep their affine map.
        rotatable = coordinate_masks.rotatable[:, columns]
        after, slope = after.clone(), slope.clone()  # autograd keeps the originals
        after[:, columns, 2] = torch.where(rotatable, mapped, after[:, columns, 2])
        slope[:, columns, 2] = torch.where(rotatable, log_slope, slope[:, columns, 2])
        return after, slope


def _to_normal(torsion: Tensor, knots: spline.Knots) -> tuple[Tensor, Tensor]:
    """A torsion in (−π, π] → a standard normal number, and the logarithm of the slope."""
    v, log_slope = spline.forward((torsion / (2 * math.pi) + 0.5).clamp(0, 1), knots)
    tiny = torch.finfo(v.dtype).eps  # the quantile of 0 or 1 is infinite
    z = torch.special.ndtri(v.clamp(tiny, 1 - tiny))
    return z, log_slope - math.log(2 * math.pi) - _log_normal(z)


def _from_normal(z: Tensor, knots: spline.Knots) -> tuple[Tensor, Tensor]:
    """Inverse of `_to_normal`, and the logarithm of its slope."""
    u, log_slope = spline.inverse(torch.special.ndtr(z), knots)
    return (2 * u - 1) * math.pi, math.log(2 * math.pi) + _log_normal(z) - log_slope


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * z * z - 0.5 * math.log(2 * math.pi)
