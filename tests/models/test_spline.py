"""Circular splines: identity at zero, monotone, inverse, slope against autograd, equal slopes at both ends."""

import torch

from boltzray.models import spline

BINS = 8


def _random(shape: tuple[int, ...], scale: float = 2.0) -> spline.Knots:
    generator = torch.Generator().manual_seed(0)
    parameters = scale * torch.randn(
        (*shape, spline.parameters_per_spline(BINS)), generator=generator, dtype=torch.float64
    )
    return spline.knots(parameters)


def test_zero_parameters_are_the_identity() -> None:
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    v, log_slope = spline.forward(u, spline.knots(torch.zeros(101, 3 * BINS, dtype=torch.float64)))
    torch.testing.assert_close(v, u, atol=1e-12, rtol=0)
    torch.testing.assert_close(log_slope, torch.zeros_like(u), atol=1e-9, rtol=0)


def test_inverse_and_slope() -> None:
    u = torch.rand((50, 7), generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    k = _random((50, 7))
    v, log_slope = spline.forward(u, k)
    back, log_slope_back = spline.inverse(v, k)
    torch.testing.assert_close(back, u, atol=1e-9, rtol=0)
    torch.testing.assert_close(log_slope_back, log_slope, atol=1e-6, rtol=0)
    (slope,) = torch.autograd.grad(v.sum(), u)
    torch.testing.assert_close(slope.log(), log_slope, atol=1e-9, rtol=0)


def test_it_is_a_map_of_the_circle() -> None:
    """It rises from 0 to 1, and its slope is the same at both ends."""
    grid = torch.linspace(0, 1, 1001, dtype=torch.float64)
    for row in spline.knots(torch.randn(20, 3 * BINS, generator=torch.Generator().manual_seed(2))).x:
        assert row[0] == 0
        assert row[-1] == 1
    k = _random((20,))
    wide = spline.Knots(*(part[:, None].expand(-1, 1001, -1) for part in k))
    v, log_slope = spline.forward(grid.expand(20, -1), wide)
    assert (v.diff(dim=1) > 0).all()
    torch.testing.assert_close(v[:, [0, -1]], grid[[0, -1]].expand(20, 2))
    torch.testing.assert_close(log_slope[:, 0], log_slope[:, -1])


def test_extreme_parameters_stay_finite() -> None:
    k = _random((1000,), scale=40.0)
    u = torch.rand(1000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for value in (*spline.forward(u, k), *spline.inverse(u, k)):
        assert value.isfinite().all()
