"""Centre of mass of draws over bins: its spread, its scale, and the ESS of a perfect flow."""

import numpy as np
import torch

from boltzray.samplers import bins_com_log_density, com_log_density, ess

N, PITCH = 22, 9 / 8191


def test_a_perfect_flow_has_no_loss_with_the_term() -> None:
    """Of frames centred at the origin each coordinate is rounded on its own: log q has the density of the mean."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, N, 3))
    x -= x.mean(1, keepdims=True)
    center = (np.round(x / PITCH) * PITCH).mean(1)
    variance = PITCH**2 / (12 * N)
    log_q = -0.5 * np.square(center).sum(1) / variance  # what a perfect flow has beside the molecule's own density
    found = bins_com_log_density(center, N)
    assert abs(found.spread / variance**0.5 - 1) < 0.02
    assert ess(found.log_density - log_q) > 0.99
    assert ess(-log_q) < 0.01
    stray = center.copy()
    stray[:20] += 1.0  # some draws that went astray do not widen it
    assert abs(bins_com_log_density(stray, N).spread / found.spread - 1) < 0.01


def test_its_integral_is_that_of_the_gaussian_term() -> None:
    center = np.random.default_rng(1).standard_normal((1000, 3)) * 0.01
    found = bins_com_log_density(center, N)
    peak = found.log_density + 0.5 * np.square(center).sum(1) / found.spread**2
    integral = peak + 1.5 * np.log(2 * np.pi * found.spread**2)
    np.testing.assert_allclose(integral, 1.5 * np.log(2 * np.pi / N), atol=1e-12)


def test_nothing_known_is_no_term() -> None:
    for center in (np.zeros((5, 3)), np.full((2, 3), np.nan)):
        assert (bins_com_log_density(center, N).log_density == 0.0).all()
    term, gradient = com_log_density(torch.randn(4, N, 3), "none")
    assert (term == 0).all()
    assert (gradient == 0).all()
