"""Weights, SNIS diagnostics and the centre of mass."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from boltzray.samplers import com_log_density, ess, log_mean_exp, log_z_error, psis, snis, treat


def test_ess_and_log_z_of_huge_logarithms() -> None:
    assert ess(np.full(10, -1e7)) == pytest.approx(1.0)
    assert ess([0.0, -np.inf, -np.inf, -np.inf]) == pytest.approx(0.25)
    assert log_mean_exp([1e7, 1e7 + np.log(3.0)]) == pytest.approx(1e7 + np.log(2.0))
    assert log_mean_exp([0.0, -np.inf]) == pytest.approx(np.log(0.5))


def test_log_z_error_counts_families() -> None:
    n = 100
    assert log_z_error(np.zeros(n)) == pytest.approx(0.0)
    assert log_z_error(np.zeros(n), np.zeros(n, dtype=np.int64)) == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [[], [0.0, np.nan], [0.0, np.inf], [[0.0]]])
def test_unusable_log_weights_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="log-weights"):
        ess(bad)


def test_all_zero_weights_are_a_clear_error() -> None:
    with pytest.raises(ValueError, match="all 3 particles have weight zero"):
        snis(torch.zeros(3, 1, 3), torch.zeros(3), torch.full((3,), -torch.inf))


def test_treatments() -> None:
    log_w = np.random.default_rng(0).standard_normal(5000) * 3.0
    log_w[7] = -np.inf
    top = np.argsort(log_w)[-10:]
    assert np.array_equal(treat(log_w, "none"), log_w)
    dropped = treat(log_w, "drop_top")
    assert np.isneginf(dropped[top]).all()
    assert np.isneginf(dropped).sum() == 11
    truncated = treat(log_w, "truncate")
    assert truncated.max() <= log_mean_exp(log_w) + 0.5 * np.log(5000) + 1e-12
    smoothed, k_hat = psis(log_w)
    assert np.array_equal(treat(log_w, "psis"), smoothed)
    assert smoothed.max() <= log_w.max() + 1e-12
    assert np.isneginf(smoothed[7])
    assert k_hat is not None
    assert k_hat > 0.5
    with pytest.raises(ValueError, match="choose one of none, psis, truncate, drop_top"):
        treat(log_w, "clip")  # type: ignore[arg-type]


def test_k_hat_recovers_a_pareto_tail() -> None:
    """Weights u^(−k) are Pareto with shape k."""
    uniform = np.random.default_rng(1).random(100_000)
    for shape in (0.3, 0.7, 1.2):
        k_hat = psis(-shape * np.log(uniform))[1]
        assert k_hat is not None
        print(f"k̂ {k_hat:.3f}, exact {shape}")
        assert abs(k_hat - shape) < 0.2


def test_k_hat_of_light_and_exponential_tails_among_failures() -> None:
    """Uniform weights have shape −1, exponential ones 0, however many conformations failed."""
    uniform, alive = np.random.default_rng(1).random(100_000), np.random.default_rng(2).random(100_000) < 0.2
    for log_w, shape in ((np.log(uniform), -1.0), (np.log(-np.log(uniform)), 0.0), (-0.7 * np.log(uniform), 0.7)):
        for given in (log_w, np.where(alive, log_w, -np.inf)):
            smoothed, k_hat = psis(given)
            assert k_hat is not None
            assert abs(k_hat - shape) < 0.25  # 5 σ of (1 + k)/√950, and of (1 + 0.7)/√424
            assert np.array_equal(np.isneginf(smoothed), np.isneginf(given))


@pytest.mark.parametrize("dead", [0, 1, 30, 3000])
def test_k_hat_of_equal_weights_is_that_of_no_tail(dead: int) -> None:
    failed = np.full(dead, -np.inf)
    for equal in (np.zeros(70), np.full(70, -1e4), 1e-13 * np.random.default_rng(0).standard_normal(70)):
        smoothed, k_hat = psis(np.r_[equal, failed])
        assert k_hat == 0.0
        assert np.array_equal(smoothed, np.r_[equal, failed])
    assert psis(np.r_[np.zeros(70), -np.arange(1.0, 100.0), failed])[1] == 0.0  # the tail: equals alone


@pytest.mark.parametrize("dead", [0, 1000])
def test_k_hat_needs_21_weights(dead: int) -> None:
    """ESS 94 % of 20 draws was ∞, "a few draws decide every average"."""
    failed = np.full(dead, -np.inf)
    for n in (1, 2, 20, 21):
        log_w = np.r_[0.25 * np.random.default_rng(n).standard_normal(n), failed]
        smoothed, k_hat = psis(log_w)
        assert (k_hat is None) == (n < 21)
        if k_hat is None:
            assert np.array_equal(smoothed, log_w)
            assert snis(None, np.zeros(len(log_w)), log_w).k_hat is None
        else:
            assert k_hat < 1.0


@pytest.mark.parametrize("others", [np.zeros(1000), np.random.default_rng(0).standard_normal(1000)])
def test_a_single_draw_that_outweighs_all_is_infinite(others: np.ndarray) -> None:
    for dead in (0, 500):
        assert psis(np.r_[others, 800.0, np.full(dead, -np.inf)])[1] == np.inf


def test_snis_reports_raw_weights_and_failures() -> None:
    source = np.random.default_rng(2)
    log_q, log_p = source.standard_normal(2000), source.standard_normal(2000)
    log_p[:5] = [-np.inf, np.nan, np.inf, 0.0, 0.0]
    log_q[3] = np.nan
    result = snis(torch.zeros(2000, 1, 3), torch.from_numpy(log_q), log_p)
    assert result.n_failed == 4
    assert result.n_evaluations == 2000
    raw = log_p - log_q
    raw[:4] = -np.inf
    assert result.ess == pytest.approx(ess(raw))
    assert result.max_weight_share == pytest.approx(np.exp(raw).max() / np.exp(raw).sum())
    assert isinstance(result.log_w, torch.Tensor)
    assert result.log_w.dtype == torch.float64
    with pytest.raises(ValueError, match="give one of each"):
        snis(torch.zeros(3, 1, 3), log_q, log_p)


@pytest.mark.parametrize("n", [21, 100, 1000, 20_000])
def test_pareto_smoothing_is_that_of_arviz(n: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # ArviZ announces its next version at import
        from arviz.stats import psislw
    source = np.random.default_rng(n)
    for spread in (0.01, 1.0, 10.0, 100.0):
        for log_w in (spread * source.standard_normal(n), spread * source.standard_t(2, n)):
            with np.errstate(over="ignore"):
                expected, shape = psislw(log_w, normalize=False)
            smoothed, k_hat = psis(log_w)
            assert k_hat == pytest.approx(float(shape), rel=1e-12)
            np.testing.assert_allclose(smoothed, expected, rtol=1e-13, atol=1e-15 * spread)


@pytest.mark.parametrize("n_atoms", [23, 63, 138])
def test_center_of_mass_costs_nothing_if_gaussian(n_atoms: int) -> None:
    """A proposal perfect in shape, centre N(0, 1/N): ESS 1 and, with the public code's radius, 9/15."""
    noise = torch.randn(40_000, 1, 3, generator=torch.Generator().manual_seed(n_atoms)).double()
    shape = torch.randn(1, n_atoms, 3, generator=torch.Generator().manual_seed(1)).double()
    x = shape - shape.mean(1, keepdim=True) + noise / n_atoms**0.5
    log_q = -0.5 * noise.square().sum((1, 2))
    gaussian = ess(com_log_density(x)[0] - log_q)
    radial = ess(com_log_density(x, mode="radial")[0] - log_q)
    print(f"N = {n_atoms}: ESS gaussian {gaussian:.4f}, radial {radial:.4f}, exact 1 and 0.6")
    assert gaussian == pytest.approx(1.0, abs=1e-9)
    assert radial == pytest.approx(0.6, abs=0.012)
    hot = ess(com_log_density(x * 1.5, temperature_ratio=2.25)[0] - log_q)
    assert hot == pytest.approx(ess(com_log_density((x - x.mean(1, keepdim=True)) + 1.0)[0]), abs=1e-9)


@pytest.mark.parametrize("mode", ["gaussian", "radial"])
def test_center_of_mass_gradient(mode: Any) -> None:
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x.requires_grad_()
    log_density, gradient = com_log_density(x, mode=mode, temperature_ratio=1.7)
    (auto,) = torch.autograd.grad(log_density.sum(), x)
    torch.testing.assert_close(gradient, auto)
    with pytest.raises(ValueError, match="gaussian, radial or none"):
        com_log_density(x, mode="uniform")  # type: ignore[arg-type]
