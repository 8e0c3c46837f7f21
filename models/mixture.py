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
IMAGES = 1  # turns to either side; at the widest, those beyond hold 2e-7 of the mass
HALVINGS = 10  # of the bracket of a quantile
NEWTON_STEPS = {torch.float32: 4, torch.float64: 7}  # then, within it


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

    def mass_below(self, v: Tensor) -> Tensor:
        """Mass below v (...), on the circle from −π on, exact where it is small."""
        inverse = torch.exp(-self.log_deviation)
        t = (v[..., None] - self.mean) * inverse
        if not self.circular:
            return (self.log_share.exp() * _below(t)).sum(-1)
        shift = self._images() * inverse[..., None]
        start = (-math.pi - self.mean) * inverse
        return (self.log_share.exp() * _mass(start[..., None] + shift, t[..., None] + shift).sum(-1)).sum(-1)

    def mirrored(self, sign: Tensor) -> "Mixture":
        """The density of sign · v, where sign (...) is 1 or −1."""
        return self._replace(mean=self.mean * sign[..., None])

    def to_normal(self, v: Tensor) -> Tensor:
        """The standard normal number with as much mass below."""
        below = self.mass_below(v)
        above = self.mirrored(-torch.ones_like(v)).mass_below(-v)
        tiny = torch.finfo(v.dtype).tiny
        lower = below <= above
        z = torch.special.ndtri(torch.where(lower, below, above).clamp(tiny, 0.5))
        return torch.where(lower, z, -z)

    def from_normal(self, z: Tensor) -> Tensor:
        """Inverse of `to_normal`, to rounding; without gradients."""
        # Mirrored so that the mass below is the smaller one: near 1 it would be rounded away.
        sign = torch.where(z > 0, -1.0, 1.0).to(z.dtype)
        z, own = z * sign, self.mirrored(sign)
        slope, offset, share = own._error_functions()
        mass = _below(z)
        if self.circular:
            v, half = torch.zeros_like(z), torch.full_like(z, math.pi)
            mass = mass + _dot(share, torch.special.erfc(offset - math.pi * slope))  # as much as lies below −π
        else:  # the quantile of a mixture is between those of its components
            low, high = torch.aminmax(torch.addcmul(own.mean, z[..., None], own.log_deviation.exp()), dim=-1)
            v, half = 0.5 * (low + high), 0.5 * (high - low)
        for _ in range(HALVINGS):
            excess = _dot(share, torch.special.erfc(torch.addcmul(offset, v[..., None], slope))) - mass
            half = 0.5 * half
            v = torch.addcmul(v, excess.sign(), half, value=-1)
        low, high = v - half, v + half
        steep = -2 / math.sqrt(math.pi) * share * slope
        for _ in range(NEWTON_STEPS.get(z.dtype, 4)):
            t = torch.addcmul(offset, v[..., None], slope)
            excess = _dot(share, torch.special.erfc(t)) - mass
            low, high = torch.where(excess > 0, low, v), torch.where(excess > 0, v, high)
            v = torch.clamp(v - excess / _dot(steep, torch.exp(-t.square())), low, high)
        return v * sign

    def _error_functions(self) -> tuple[Tensor, Tensor, Tensor]:
        """Slopes a, offsets b and shares c (..., M): `mass_below` v is Σ c erfc(a v + b), less that at −π on a circle.

        On the circle M are the components and their images. Of one whose middle lies below −π, a and c are negative:
        its mass is that of an upper tail, and differences of lower ones near 1 would lose it.
        """
        slope = -math.sqrt(0.5) * torch.exp(-self.log_deviation)
        share, mean = 0.5 * self.log_share.exp(), self.mean
        if self.circular:
            images = self._images()[:, None]
            mean = (mean[..., None, :] - images).flatten(-2)
            slope, share = (t[..., None, :].expand(*t.shape[:-1], len(images), -1).flatten(-2) for t in (slope, share))
            side = torch.where(mean < -math.pi, -1.0, 1.0).to(mean.dtype)
            slope, share = slope * side, share * side
        return slope, -slope * mean, share

    def _images(self) -> Tensor:
        # Made on the device: a copy from the host cannot be part of a recorded graph.
        return TURN * torch.arange(-IMAGES, IMAGES + 1, dtype=self.mean.dtype, device=self.mean.device)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)


def _below(x: Tensor) -> Tensor:
    """Standard normal mass below x. `torch.special.ndtr` in float32 has an absolute error, and is 0 from −6 on."""
    return 0.5 * torch.special.erfc(-math.sqrt(0.5) * x)


def _mass(low: Tensor, high: Tensor) -> Tensor:
    """Standard normal mass between two numbers."""
    flip = low > 0  # the upper tail by the lower one: differences near 1 would lose it
    a, b = torch.where(flip, -high, low), torch.where(flip, -low, high)
    return _below(b) - _below(a)
