"""Mixtures of normal densities: normalised, distribution functions that are their integrals, quantiles that invert."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from boltzray.models.mixture import Mixture

K = 4


def parameters(n: int, scale: float = 1.5) -> Tensor:
    return scale * torch.randn((n, 3 * K), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def on_line(n: int) -> Mixture:
    return Mixture.on_line(parameters(n, 0.8))


def on_circle(n: int) -> Mixture:
    return Mixture.on_circle(parameters(n))


def rows(mixture: Mixture, n: int) -> Mixture:
    """The same mixtures for `n` values each."""
    parts = (t[:, None].expand(-1, n, -1) for t in mixture[:3])
    return Mixture(*parts, circular=mixture.circular)


@pytest.mark.parametrize("make", [on_line, on_circle])
def test_density_is_the_slope_of_the_mass_below_and_its_whole_is_one(make: type) -> None:
    grid = torch.linspace(-math.pi, math.pi, 40_001, dtype=torch.float64)
    grid = grid if make is on_circle else 30 * grid
    mixture = rows(make(12), len(grid))
    density = mixture.log_density(grid.expand(12, -1)).exp()
    below = mixture.mass_below(grid.expand(12, -1))
    above = mixture.mirrored(-torch.ones(12, len(grid))).mass_below(-grid.expand(12, -1))
    torch.testing.assert_close(below + above, torch.ones_like(below), atol=3e-7, rtol=0)
    mass = torch.cat([torch.zeros(12, 1), torch.cumulative_trapezoid(density, grid)], 1)
    torch.testing.assert_close(mass, below - below[:, :1], atol=2e-5, rtol=0)
    assert (mass[:, -1] - 1).abs().max() < 2e-5
    if make is on_circle:  # the circle has no seam
        torch.testing.assert_close(density[:, 0], density[:, -1], rtol=1e-5, atol=1e-7)


def test_one_component_is_the_normal_distribution() -> None:
    parameters = torch.zeros(1, 3, dtype=torch.float64)  # its mean is the first of those that are spread out
    mixture = Mixture.on_line(parameters, temperature_ratio=2.25)
    v = torch.tensor([-3.0, 0.2, 4.0], dtype=torch.float64)
    known = norm(mixture.mean.item(), 1.5)
    np.testing.assert_allclose(mixture.log_density(v), known.logpdf(v))
    np.testing.assert_allclose(mixture.to_normal(v), (v - mixture.mean.item()) / 1.5)


@pytest.mark.parametrize("make", [on_line, on_circle])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantiles_invert_far_into_both_tails(make: type, dtype: torch.dtype) -> None:
    z = torch.tensor([-5.0, -2.5, -0.3, 0.0, 1.0, 3.0, 5.0], dtype=dtype)
    mixture = make(12)
    mixture = rows(Mixture(*(t.to(dtype) for t in mixture[:3]), circular=mixture.circular), len(z))
    v = mixture.from_normal(z.expand(12, -1))
    assert (v.diff(dim=1) > 0).all()
    back = mixture.to_normal(v)
    # Where the density is nearly zero, rounding of v is all that is left.
    steep = mixture.log_density(v).exp() * torch.finfo(dtype).eps * v.abs().clamp(min=1) / norm.pdf(z)
    assert ((back - z).abs() < (1e-8 if dtype == torch.float64 else 1e-4) + 50 * steep).all()


def test_slope_of_the_latent_is_the_ratio_of_densities() -> None:
    for mixture in (on_line(50), on_circle(50)):
        v = mixture.from_normal(torch.linspace(-3, 3, 50, dtype=torch.float64)).requires_grad_()
        z = mixture.to_normal(v)
        (slope,) = torch.autograd.grad(z.sum(), v)
        expected = mixture.log_density(v) + 0.5 * z.square() + 0.5 * math.log(2 * math.pi)
        torch.testing.assert_close(slope.log(), expected, atol=1e-5, rtol=1e-6)
