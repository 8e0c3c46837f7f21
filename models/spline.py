"""Monotone rational-quadratic splines of the circle, opened where the density is continued from one end to the other.

Source: Durkan et al. 2019, Neural Spline Flows (arXiv 1906.04032); on the circle: Rezende et al. 2020
(arXiv 2002.02428).
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_SIZE, MIN_SLOPE = 1e-4, 1e-4  # of a bin, and of the map at its ends
UNIT_SLOPE = math.log(math.expm1(1 - MIN_SLOPE))  # zeros then give slope 1


class Knots(NamedTuple):
    """Edges of K bins, and the slopes there. Shape: (..., K + 1) each; x and y from 0 to 1."""

    x: Tensor
    y: Tensor
    slope: Tensor


def parameters_per_spline(bins: int) -> int:
    """Number of parameters: widths, heights and slopes of `bins`; the last slope is the first."""
    return 3 * bins


def knots(parameters: Tensor) -> Knots:
    """Spline from any numbers (..., 3K); zeros give the identity."""
    width, height, slope = parameters.chunk(3, dim=-1)
    slope = MIN_SLOPE + F.softplus(slope + UNIT_SLOPE)
    return Knots(_edges(width), _edges(height), torch.cat([slope, slope[..., :1]], dim=-1))


def _edges(logits: Tensor) -> Tensor:
    size = MIN_SIZE + (1 - MIN_SIZE * logits.shape[-1]) * logits.softmax(-1)
    inner = size.cumsum(-1)[..., :-1]
    return F.pad(F.pad(inner, (1, 0)), (0, 1), value=1.0)


def forward(u: Tensor, k: Knots) -> tuple[Tensor, Tensor]:
    """v(u) on [0, 1], and log dv/du. Shape: (...) → (...), (...)."""
    x0, width, y0, height, s0, s1 = _bin(u, k.x, k)
    t = ((u - x0) / width).clamp(0, 1)
    v, log_slope = _inside(t, height / width, s0, s1)
    return y0 + height * v, log_slope


def inverse(v: Tensor, k: Knots) -> tuple[Tensor, Tensor]:
    """u(v) on [0, 1], and log dv/du there. Shape: (...) → (...), (...)."""
    x0, width, y0, height, s0, s1 = _bin(v, k.y, k)
    s = height / width
    r = ((v - y0) / height).clamp(0, 1)
    bend = s0 + s1 - 2 * s
    a, b, c = s - s0 + r * bend, s0 - r * bend, -s * r
    # The root of the quadratic in the form that does not cancel, nor divide by a small `a` (Durkan et al. 2019).
    t = (2 * c / (-b - (b * b - 4 * a * c).clamp(min=0).sqrt())).clamp(0, 1)
    _, log_slope = _inside(t, s, s0, s1)
    return x0 + width * t, log_slope


def _bin(value: Tensor, edges: Tensor, k: Knots) -> tuple[Tensor, ...]:
    """Left end, width, lower end, height, and the slopes at both ends of the bin that holds each value."""
    index = torch.searchsorted(edges[..., 1:-1].contiguous(), value[..., None].contiguous(), right=True)

    def pair(t: Tensor) -> tuple[Tensor, Tensor]:
        return t.gather(-1, index)[..., 0], t.gather(-1, index + 1)[..., 0]

    (x0, x1), (y0, y1), (s0, s1) = pair(k.x), pair(k.y), pair(k.slope)
    return x0, x1 - x0, y0, y1 - y0, s0, s1


def _inside(t: Tensor, s: Tensor, s0: Tensor, s1: Tensor) -> tuple[Tensor, Tensor]:
    """Fraction of the bin's height at fraction t of its width, and the logarithm of the slope there."""
    rest = t * (1 - t)
    denominator = s + (s0 + s1 - 2 * s) * rest
    fraction = (s * t * t + s0 * rest) / denominator
    numerator = s1 * t * t + 2 * s * rest + s0 * (1 - t) * (1 - t)
    return fraction, 2 * s.log() + numerator.log() - 2 * denominator.log()
