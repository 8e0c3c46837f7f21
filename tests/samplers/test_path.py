"""The adaptive path: conditional ESS held, any scale of energies, last λ exactly 1."""

import numpy as np
import pytest

from boltzray.samplers import conditional_ess, resample
from boltzray.samplers.path import adaptive_lambda, linear_lambda


def test_linear_includes_both_ends() -> None:
    path = [linear_lambda(step, 10) for step in range(11)]
    assert path[0] == 0.0
    assert path[-1] == 1.0


@pytest.mark.parametrize("scale", [1.0, 1e7, 1e24])
def test_conditional_ess_is_held_up_to_the_end(scale: float) -> None:
    """log π̃ − log q spread over `scale`, with a share of failures; particles are resampled, not moved."""
    source = np.random.default_rng(0)
    log_ratio = -scale * source.exponential(size=2000)
    log_ratio[:200] = -np.inf
    lam, log_w, n_steps = 0.0, np.zeros(2000), 0
    while lam < 1.0:
        after = adaptive_lambda(lam, log_ratio, log_w, 0.95)
        assert lam < after <= 1.0
        alive = np.isfinite(log_ratio) & np.isfinite(log_w)
        share = conditional_ess(log_w[alive], (after - lam) * log_ratio[alive])
        assert share >= 0.95 - 1e-9
        assert share < 0.951 or after == 1.0
        if n_steps == 0:  # (1 + 2Δs)/(1 + Δs)² = 0.95 for exponentials of mean s
            assert after == pytest.approx(0.288 / scale, rel=0.1, abs=0)
        log_w = log_w + (after - lam) * log_ratio
        if n_steps % 5 == 4:
            ancestors = resample(log_w, 2000, source, "systematic")
            log_ratio, log_w = log_ratio[ancestors], np.zeros(2000)
        lam, n_steps = after, n_steps + 1
    print(f"scale {scale:g}: {n_steps} steps")
    assert lam == 1.0


def test_equal_ratios_need_one_step() -> None:
    assert adaptive_lambda(0.0, np.full(10, -1e7), np.zeros(10), 0.95) == 1.0
    assert adaptive_lambda(0.3, np.array([-np.inf, -5.0]), np.zeros(2), 0.95) == 1.0


def test_next_lambda_is_larger_even_below_rounding() -> None:
    after = adaptive_lambda(0.5, np.array([0.0, -1e30]), np.zeros(2), 0.95)
    assert 0.5 < after < 0.5 + 1e-10
