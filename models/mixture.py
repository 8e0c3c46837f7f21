"""Mixtures of normal densities, on the line and wrapped around the circle: density, distribution function, quantile.

Smooth, with several modes, and with a distribution function in closed form: a coordinate with such a density is a
monotone function of a standard normal number.

Shapes: `...` of the coordinate, K components, 3K parameters of a mixture.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TURN = 2 * math.pi
LOG_DEVIATION = (-5.0, 3.0)  # least and most on the line, in units of the coordinate's usual deviation
LOG_DEVIATION_TURN = (-5.0, math.log(1.2))  # on the circle, rad: wider ones would need more images
IMAGES = (-1, 0, 1)  # turns; at the widest, those beyond hold 2e-7 of the mass
HALVINGS = {torch.float32: 22, torch.float64: 44}  # of the bracket
POLISHINGS = 2  # then, by Newton's method


class Mixture(NamedTuple):
    """Log-shares, means and standard deviations of K normal densities (..., K), on the line or around the circle."""

    log_share: Tensor
    mean: Tensor
    log_deviation: Tensor
    circular: bool

    @classmethod
    def on_line(cls, parameters: Tensor, temperature_ratio: float = 1.0) -> "Mixture":
        """Mixture from any numbers; its deviations widen as the root of `temperature_ratio`."""
        share, mean, log_deviation = parameters.chunk(3, -1)
        spread = torch.linspace(-1, 1, mean.shape[-1], dtype=mean.dtype, device=mean.device)
        log_deviation = log_deviation.clamp(*LOG_DEVIATION) + 0.5 * math.log(temperature_ratio)
        return cls(share.log_softmax(-1), mean + spread, log_deviation, circular=False)

    @classmethod
    def on_circle(cls, parameters: Tensor) -> "Mixture":
        """Mixture on (−π, π] from any numbers."""
        share, mean, raw = parameters.chunk(3, -1)
        k = torch.arange(mean.shape[-1], dtype=mean.dtype, device=mean.device)
        least, most = LOG_DEVIATION_TURN
        log_deviation = (most - F.softplus(0.5 - 3 * raw)).clamp(min=least)
        mean = torch.remainder(3 * mean + k * TURN / mean.shape[-1], TURN) - math.pi
        return cls(share.log_softmax(-1), mean, log_deviation, circular=True)

    def log_density(self, v: Tensor) -> Tensor:
        """Log-density (...) at v (...)."""
        distance = v[..., None] - self.mean
        each = self.log_share - self.log_deviation - 0.5 * math.log(TURN)
        if not self.circular:
            return torch.logsumexp(each - 0.5 * (distance * torch.exp(-self.log_deviation)).square(), -1)
        distance = (distance[..., None] + self._images()) * torch.exp(-self.log_deviation)[..., None]
        return torch.logsumexp((each[..., None] - 0.5 * distance.square()).flatten(-2), -1)

    def tails(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Mass below and mass above v (...), each exact where it is small."""
        inverse = torch.exp(-self.log_deviation)
        t = (v[..., None] - self.mean) * inverse
        share = self.log_share.exp()
        if not self.circular:
            return (share * _below(t)).sum(-1), (share * _below(-t)).sum(-1)
        shift = self._images() * inverse[..., None]
        low, high = ((end - self.mean) * inverse for end in (-math.pi, math.pi))
        below, above = (_mass(a[..., None] + shift, b[..., None] + shift).sum(-1) for a, b in ((low, t), (t, high)))
        return (share * below).sum(-1), (share * above).sum(-1)

    def to_normal(self, v: Tensor) -> Tensor:
        """The standard normal number with as much mass below."""
        below, above = self.tails(v)
        tiny = torch.finfo(v.dtype).tiny
        lower = below <= above
        z = torch.special.ndtri(torch.where(lower, below, above).clamp(tiny, 0.5))
        return torch.where(lower, z, -z)

    def from_normal(self, z: Tensor) -> Tensor:
        """Inverse of `to_normal`, to rounding; without gradients."""
        mass, upper = _below(-z.abs()), z > 0
        if self.circular:
            low, high = torch.full_like(z, -math.pi), torch.full_like(z, math.pi)
        else:  # the quantile of a mixture is between those of its components
            each = self.mean + z[..., None] * self.log_deviation.exp()
            low, high = each.amin(-1), each.amax(-1)
        halvings = HALVINGS.get(z.dtype, 22)
        for step in range(halvings + POLISHINGS):
            v = 0.5 * (low + high)
            if step >= halvings:
                below, above = self.tails(v)
                excess = torch.where(upper, mass - above, below - mass)
                v = torch.clamp(v - excess / self.log_density(v).exp(), low, high)
            below, above = self.tails(v)
            too_high = torch.where(upper, above < mass, below > mass)
            low, high = torch.where(too_high, low, v), torch.where(too_high, v, high)
        return v

    def _images(self) -> Tensor:
        return TURN * torch.tensor(IMAGES, dtype=self.mean.dtype, device=self.mean.device)


def _below(x: Tensor) -> Tensor:
    """Standard normal mass below x. `torch.special.ndtr` in float32 has an absolute error, and is 0 from −6 on."""
    return 0.5 * torch.special.erfc(-math.sqrt(0.5) * x)


def _mass(low: Tensor, high: Tensor) -> Tensor:
    """Standard normal mass between two numbers."""
    flip = low > 0  # the upper tail by the lower one: differences near 1 would lose it
    a, b = torch.where(flip, -high, low), torch.where(flip, -low, high)
    return _below(b) - _below(a)
