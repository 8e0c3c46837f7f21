"""What a block does to one coordinate of a token, given numbers that the tokens before it decide.

Zeros for these numbers leave a coordinate as it is; so padding, and what carries the rigid motion, is masked by zeros.

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

    Shape: present (P, T, 3), those that are coordinates at all; bound (P, T, 3), those of them that are no torsions of
    the whole circle; free (P, T), tokens with such a torsion. `columns`: tokens that may have one.
    """

    present: Tensor
    bound: Tensor
    free: Tensor
    columns: tuple[int, ...]

    @classmethod
    def of(cls, present: Tensor, free_torsions: Tensor) -> "CoordinateMasks":
        """Shape: present, free_torsions (P, T, 3)."""
        free = free_torsions[..., 2]
        # Several peptides differ in their columns, and on a GPU to look at them would be a wait at each step.
        columns = free[0].nonzero()[:, 0].tolist() if len(free) == 1 else range(free.shape[1])
        return cls(present, present & ~free_torsions, free, tuple(columns))

    def token(self, i: int) -> "CoordinateMasks":
        """Masks of one token, which stays a dimension."""
        here = slice(i, i + 1)
        columns = (0,) if i in self.columns else ()
        return CoordinateMasks(self.present[:, here], self.bound[:, here], self.free[:, here], columns)


class Affine:
    """z = (u − b) · exp(−a). Source: TarFlow (arXiv 2412.06329)."""

    def __init__(self, dim: int) -> None:
        self.features, self.parameters = dim, 2 * dim

    def inputs(self, u: Tensor, marks: CoordinateMasks | None) -> Tensor:
        """What the network sees of the coordinates (…, D)."""
        return u

    def forward(self, u: Tensor, p: Tensor, marks: CoordinateMasks | None) -> tuple[Tensor, Tensor]:
        """z (…, D) and log dz/du of each coordinate, from parameters p."""
        a, b = self._parts(p, marks)
        return (u - b) * torch.exp(-a), -a

    def inverse(self, z: Tensor, p: Tensor, marks: CoordinateMasks | None) -> tuple[Tensor, Tensor]:
        """u (…, D) and log du/dz of each coordinate."""
        a, b = self._parts(p, marks)
        return torch.addcmul(b, z, a.exp()), a

    def _parts(self, p: Tensor, marks: CoordinateMasks | None) -> tuple[Tensor, Tensor]:
        a, b = p.chunk(2, dim=-1)
        return (a, b) if marks is None else (a * marks.present, b * marks.present)


class Circular:
    """Affine for bonds, angles and bound torsions; for a free torsion a spline of the circle, then a normal quantile.

    A normal number cannot wind around a circle: what the first block makes of a free torsion is one for the others.
    """

    def __init__(self, bins: int) -> None:
        self.affine = Affine(3)
        self.features = 5
        self.parameters = self.affine.parameters + spline.parameters_per_spline(bins)

    def inputs(self, u: Tensor, marks: CoordinateMasks | None) -> Tensor:
        """Bond, angle, torsion if it is bound; sine and cosine if it is free. Shape: (…, 3) → (…, 5)."""
        assert marks is not None
        torsion, free = u[..., 2], marks.free
        zero = torch.zeros_like(torsion)
        bound = torch.where(free, zero, torsion)
        sine, cosine = torch.where(free, torsion.sin(), zero), torch.where(free, torsion.cos(), zero)
        return torch.stack([u[..., 0], u[..., 1], bound, sine, cosine], dim=-1)

    def forward(self, u: Tensor, p: Tensor, marks: CoordinateMasks | None) -> tuple[Tensor, Tensor]:
        """See `Affine`."""
        assert marks is not None
        z, slope = self.affine.forward(u, p[..., : self.affine.parameters], marks._replace(present=marks.bound))
        return self._around(_to_normal, u, z, slope, p, marks)

    def inverse(self, z: Tensor, p: Tensor, marks: CoordinateMasks | None) -> tuple[Tensor, Tensor]:
        """See `Affine`."""
        assert marks is not None
        u, slope = self.affine.inverse(z, p[..., : self.affine.parameters], marks._replace(present=marks.bound))
        return self._around(_from_normal, z, u, slope, p, marks)

    def _around(
        self,
        turn: Callable[[Tensor, spline.Knots], tuple[Tensor, Tensor]],
        before: Tensor,
        after: Tensor,
        slope: Tensor,
        p: Tensor,
        marks: CoordinateMasks,
    ) -> tuple[Tensor, Tensor]:
        """`after` and `slope`, with free torsions (…, 2) turned instead."""
        columns = list(marks.columns)
        if not columns:
            return after, slope
        knots = spline.knots(p[:, columns, self.affine.parameters :])
        turned, log_slope = turn(before[:, columns, 2], knots)
        free = marks.free[:, columns]
        after, slope = after.clone(), slope.clone()
        after[:, columns, 2] = torch.where(free, turned, after[:, columns, 2])
        slope[:, columns, 2] = torch.where(free, log_slope, slope[:, columns, 2])
        return after, slope


def _to_normal(torsion: Tensor, knots: spline.Knots) -> tuple[Tensor, Tensor]:
    """A torsion in (−π, π] → a standard normal number, and the logarithm of the slope."""
    v, log_slope = spline.forward((torsion / (2 * math.pi) + 0.5).clamp(0, 1), knots)
    tiny = torch.finfo(v.dtype).eps
    z = torch.special.ndtri(v.clamp(tiny, 1 - tiny))
    return z, log_slope - math.log(2 * math.pi) - _log_normal(z)


def _from_normal(z: Tensor, knots: spline.Knots) -> tuple[Tensor, Tensor]:
    """Inverse of `_to_normal`, and the logarithm of its slope."""
    u, log_slope = spline.inverse(torch.special.ndtr(z), knots)
    return (2 * u - 1) * math.pi, math.log(2 * math.pi) + _log_normal(z) - log_slope


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * z * z - 0.5 * math.log(2 * math.pi)
