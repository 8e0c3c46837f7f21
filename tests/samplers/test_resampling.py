"""Resampling: in range, zero weights never drawn, unbiased."""

from typing import Any

import numpy as np
import pytest

from boltzray.samplers import multinomial, resample, residual, stratified, systematic

SCHEMES = [systematic, stratified, multinomial, residual]


class EndOfRange:
    """A generator that draws the largest value below 1, where a naive cumulative sum runs out of range."""

    def random(self, n: int | None = None) -> Any:
        last = np.nextafter(1.0, 0.0)
        return last if n is None else np.full(n, last)


def draw_million(n_runs: int) -> None:
    weights = np.random.default_rng(0).exponential(size=1_000_000).astype(np.float32)
    weights[::3] = 0.0
    weights[-5:] = 0.0
    for run in range(n_runs):
        scheme = SCHEMES[run % len(SCHEMES)]
        ancestors = scheme(weights, len(weights), np.random.default_rng(run))
        assert ancestors.shape == weights.shape
        assert ancestors.min() >= 0
        assert ancestors.max() < len(weights)
        assert weights[ancestors].min() > 0.0


def test_million_float32_weights() -> None:
    draw_million(48)


@pytest.mark.slow
def test_million_float32_weights_1000_runs() -> None:
    draw_million(1000)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_last_index_is_safe(scheme: Any) -> None:
    """Also when the uniform is as near 1 as it can be and the last weights are zero."""
    for n in (2, 7, 100_000):
        weights = np.full(n, 0.1, dtype=np.float32)
        assert scheme(weights, n, EndOfRange()).max() < n
        weights[-1] = 0.0
        assert scheme(weights, n, EndOfRange()).max() < n - 1
        assert len(scheme(weights, 3 * n, EndOfRange())) == 3 * n


@pytest.mark.parametrize("scheme", SCHEMES)
def test_unbiased(scheme: Any) -> None:
    """Average copies are n·w, at 5 standard errors for each of 20 weights."""
    source = np.random.default_rng(1)
    weights = source.exponential(size=20)
    weights[3] = 0.0
    copies = np.array([np.bincount(scheme(weights, 50, source), minlength=20) for _ in range(4000)])
    expected = 50 * weights / weights.sum()
    error = copies.std(0, ddof=1) / 4000**0.5 + 1e-9
    worst = np.abs((copies.mean(0) - expected) / error).max()
    print(f"{scheme.__name__}: largest deviation {worst:.1f} σ")
    assert worst < 5.0
    assert (copies[:, 3] == 0).all()
    assert (copies.sum(1) == 50).all()


def test_equal_weights_keep_everybody() -> None:
    for scheme in (systematic, residual):
        assert np.array_equal(scheme(np.ones(1000), 1000, np.random.default_rng(0)), np.arange(1000))


def test_wrong_input_is_refused() -> None:
    source = np.random.default_rng(0)
    for weights in ([0.0, 0.0], [1.0, -1.0], [np.nan, 1.0], [np.inf, 1.0]):
        with pytest.raises(ValueError, match="weights to resample by"):
            systematic(np.array(weights), 2, source)
    with pytest.raises(ValueError, match="choose one of systematic"):
        resample(np.zeros(3), 3, source, "killing")  # type: ignore[arg-type]
