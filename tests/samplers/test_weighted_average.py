"""Averages, shares and their logarithmic ratios: intervals cover what closed forms say, or are not called usable.

Proposals are Gaussian with variance 1 − k of the target's. In two dimensions log w is then exponential of mean k, but
for a constant: weights are Pareto of shape k exactly. Mixtures of two such far apart have the same tail.
"""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from boltzray.samplers import weighted_average, weighted_log_ratio
from boltzray.samplers.tail_bootstrap import mean_excess
from boltzray.samplers.weighted_average import Average

APART = 8.0  # standard deviations between the components


class Draws(NamedTuple):
    """Weighted draws x (n,), the coordinate along which two states lie, and the share of the second."""

    x: np.ndarray
    log_w: np.ndarray
    share: float


def mixture(shapes: tuple[float, float], target: float, proposal: float, n: int, seed: int) -> Draws:
    """Two states in two dimensions; `target` and `proposal` are the shares of the second."""
    rng = np.random.default_rng(seed)
    sd = np.sqrt(1 - np.array(shapes))
    second = (rng.random(n) < proposal).astype(int)
    x = rng.normal(size=(n, 2)) * sd[second][:, None]
    x[:, 0] += APART * second
    r2 = np.stack([(x**2).sum(1), (x[:, 0] - APART) ** 2 + x[:, 1] ** 2])
    of_target = np.log(np.array([[1 - target], [target]])) - r2 / 2
    of_proposal = np.log(np.array([[1 - proposal], [proposal]]) / sd[:, None] ** 2) - r2 / (2 * sd[:, None] ** 2)
    return Draws(x[:, 0], np.logaddexp(*of_target) - np.logaddexp(*of_proposal), target)


def estimates(draws: Draws, seed: int) -> dict[str, tuple[Average, float]]:
    """Average, share and free energy of the draws, each with the truth."""
    second, p = draws.x > APART / 2, draws.share
    return {
        "average": (weighted_average(draws.x, draws.log_w, seed=seed), APART * p),
        "share": (weighted_average(second, draws.log_w, seed=seed), p),
        "free energy": (weighted_log_ratio(second, ~second, draws.log_w, seed=seed), np.log(p / (1 - p))),
    }


def coverage(shapes: tuple[float, float], proposal: float, n: int, runs: int) -> dict[str, float]:
    """Share of runs in which the interval has the truth."""
    inside: dict[str, list[bool]] = {}
    for seed in range(runs):
        for name, (found, truth) in estimates(mixture(shapes, 0.2, proposal, n, seed), seed).items():
            inside.setdefault(name, []).append(found.low <= truth <= found.high)
    return {name: float(np.mean(hits)) for name, hits in inside.items()}


@pytest.mark.slow
@pytest.mark.parametrize("k", [0.2, 0.6])
@pytest.mark.parametrize("proposal", [0.2, 0.5])
def test_intervals_cover_the_truth_in_95_of_100_runs(k: float, proposal: float) -> None:
    for name, found in coverage((k, k), proposal, 2000, 400).items():
        assert 0.92 <= found <= 0.98, name


@pytest.mark.parametrize("k", [0.2, 0.6])
def test_intervals_cover_the_truth(k: float) -> None:
    for name, found in coverage((k, k), 0.5, 1000, 30).items():
        assert found >= 0.95 - 5 * np.sqrt(0.95 * 0.05 / 30), name


@pytest.mark.slow
def test_the_delta_method_alone_would_not_cover() -> None:
    """A control: where the heavy tail is in one state alone, intervals of ± 1.96 standard errors are too short."""
    ours, delta = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        r2 = 0.4 * 2 * rng.standard_exponential(1000)  # |x|² of a Gaussian in two dimensions, k = 0.6
        log_w = r2 / (2 * 0.4) - r2 / 2
        w = np.exp(log_w) / np.exp(log_w).sum()
        value, error = w @ r2, np.linalg.norm(w * (r2 - w @ r2))
        delta.append(abs(value - 2) < 1.96 * error)
        found = weighted_average(r2, log_w, seed=seed)
        ours.append(found.low <= 2 <= found.high)
    assert np.mean(delta) < 0.75
    assert np.mean(ours) > 0.82  # of a value that grows with log w; half of these are not called usable


def test_light_weights_give_the_delta_method() -> None:
    rng = np.random.default_rng(0)
    x, log_w = rng.normal(size=4000), rng.normal(size=4000) * 0.1
    w = np.exp(log_w) / np.exp(log_w).sum()
    found = weighted_average(x, log_w)
    assert found.value == pytest.approx(w @ x)
    assert found.error == pytest.approx(np.linalg.norm(w * (x - w @ x)), rel=0.1)
    assert found.n_effective == pytest.approx(1 / (w**2).sum())
    assert found.usable
    assert found.k_hat is not None
    assert found.k_hat < 0.3


def test_heavy_weights_are_not_usable() -> None:
    draws = mixture((0.9, 0.9), 0.2, 0.5, 4000, 1)
    for found, _ in estimates(draws, 0).values():
        assert not found.usable
        assert "k̂" in found.reason


def test_heavy_values_are_not_usable() -> None:
    """k̂ of the weights says nothing of values that have no mean."""
    rng = np.random.default_rng(0)
    found = weighted_average(rng.pareto(0.8, size=4000), np.zeros(4000))
    assert not found.usable
    assert found.k_hat is not None
    assert found.k_hat > 0.8


def test_a_share_stays_between_zero_and_one_and_a_ratio_mirrors() -> None:
    x = np.zeros(300)
    x[:2] = 1
    rare, rest = weighted_average(x == 1), weighted_average(x == 0)
    assert rare.value == pytest.approx(2 / 300)
    assert 0 < rare.low < rare.value < rare.high < 0.1
    assert (1 - rest.high, 1 - rest.low) == pytest.approx((rare.low, rare.high), rel=0.2)
    there, back = (weighted_log_ratio(a, b) for a, b in ((x == 1, x == 0), (x == 0, x == 1)))
    assert there.value == pytest.approx(np.log(2 / 298))
    assert back.value == pytest.approx(-there.value)
    assert there.low == pytest.approx(-back.high, rel=0.1)


def test_a_state_of_which_nothing_was_drawn() -> None:
    never = weighted_average(np.zeros(300, dtype=bool))
    assert (never.value, never.low, never.high) == (0, 0, pytest.approx(0.01, rel=0.01))
    assert weighted_average(np.ones(300, dtype=bool)).low == pytest.approx(0.99, rel=0.01)
    ratio = weighted_log_ratio(np.zeros(300), np.ones(300))
    assert not ratio.usable
    assert ratio.value == -np.inf
    assert "nothing was drawn" in ratio.reason


def test_constants_have_no_error() -> None:
    found = weighted_average(torch.full((100,), 3.0), torch.randn(100, generator=torch.manual_seed(0)))
    assert (found.value, found.error, found.low, found.high) == (
        pytest.approx(3),
        0,
        pytest.approx(3),
        pytest.approx(3),
    )


@pytest.mark.parametrize("first", [True, False])
def test_one_draw_that_has_all_the_weight_is_not_usable(first: bool) -> None:
    """Shares round to 0 or 1, where a logit has no slope, and the other draws still have weights above zero."""
    log_w = -60.0 - np.arange(1000) % 7.0
    log_w[3] = 0.0
    share = weighted_average((np.arange(1000) == 3) == first, log_w)
    assert share.value == pytest.approx(float(first), abs=1e-12)
    assert share.low <= share.value <= share.high
    assert not share.usable


def test_runs_of_correlated_frames_are_told_apart() -> None:
    """Each run stays at a value of its own: its 500 frames are worth one. Coverage is that of Student's t."""
    inside = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        frames = np.repeat(rng.normal(size=6), 500) + 0.1 * rng.normal(size=3000)
        found = weighted_average(frames, runs=[500] * 6)
        assert found.n_effective == 6
        inside.append(found.low <= 0 <= found.high)
    assert abs(np.mean(inside) - 0.95) < 5 * np.sqrt(0.95 * 0.05 / 200)
    alone = weighted_average(frames)
    assert alone.error < found.error / 5


def test_few_runs_are_cut_into_blocks() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=4000)
    found = weighted_average(x, runs=[3000, 1000])
    assert found.n_effective == 20
    assert found.error == pytest.approx(1 / np.sqrt(4000), rel=0.5)


def test_fewer_ancestors_than_draws_widen_the_interval() -> None:
    x = np.random.default_rng(0).normal(size=1000)
    all_of_them, families = weighted_average(x), weighted_average(x, effective=40)
    assert families.error == pytest.approx(5 * all_of_them.error)
    assert families.n_effective == 40


def test_the_mean_of_a_tail_is_that_of_its_distribution() -> None:
    rng = np.random.default_rng(0)
    excess = np.sort(2.0 / 0.4 * (rng.random(20_000) ** -0.4 - 1))
    assert mean_excess(excess, 2000, rng).mean() == pytest.approx(2.0 / (1 - 0.4), rel=0.1)


def test_failed_draws_count_for_nothing_and_bad_input_is_one_line() -> None:
    x, log_w = np.array([1.0, 2.0, np.nan]), np.array([0.0, 0.0, -np.inf])
    assert weighted_average(x, log_w).value == 1.5
    with pytest.raises(ValueError, match="1 of 3 values are NaN"):
        weighted_average(x)
    with pytest.raises(ValueError, match="2 values with 3 log-weights"):
        weighted_average(x[:2], log_w)
    with pytest.raises(ValueError, match="runs="):
        weighted_average(x[:2], runs=[1, 2])
    with pytest.raises(ValueError, match="zero or more"):
        weighted_log_ratio(-x[:2], x[:2])
