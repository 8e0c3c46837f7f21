"""Shares, their intervals, R̂ and effective frames of chains whose answers are known; ladders by brute force."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from boltzray.molecules.convergence import (
    StateEstimate,
    estimate_states,
    kish,
)

Bools = NDArray[np.bool_]


def chains(enter: float, leave: float, frames: int, count: int, seed: int) -> Bools:
    """Two-state Markov chains (count, frames) in equilibrium: P(in) = enter / (enter + leave)."""
    rng = np.random.default_rng(seed)
    states = np.empty((frames, count), dtype=bool)
    state = rng.random(count) < enter / (enter + leave)
    for t in range(frames):
        states[t] = state
        state = np.where(state, rng.random(count) >= leave, rng.random(count) < enter)
    return states.T


def one(occupied: Bools, **options: object) -> StateEstimate:
    """Estimate one state from runs of equal length. Shape: (K, T)."""
    lengths = (occupied.shape[1],) * len(occupied)
    (found,) = estimate_states(["A"], occupied.reshape(-1, 1), run_lengths=lengths, **options)  # type: ignore[arg-type]
    return found


# --- shares -------------------------------------------------------------------------------------


def test_a_state_of_the_hot_rungs_alone_is_not_known_to_be_rare() -> None:
    """The lowest rung never enters it: its weight from elsewhere is no bound. It can have 3 / n (rule of three)."""
    rng = np.random.default_rng(0)
    hot = rng.random((8, 500)) < 0.3
    log_w = np.where(hot, -20.0, 0.0).ravel()
    mixed = np.stack([hot.ravel(), np.tile([True, False], 2000)], axis=1)
    series = [np.stack([np.zeros(500, bool), rng.random(500) < 0.5], axis=1) for _ in range(8)]
    found, usual = estimate_states(["A", "B"], mixed, log_w, (500,) * 8, series)
    assert 0 < found.share < 1e-6
    assert found.error < 1e-8
    assert found.high == pytest.approx(3 / usual.effective_frames)
    assert usual.high - usual.low < 0.1


@pytest.mark.parametrize(("enter", "leave", "runs"), [(0.03, 0.07, 8), (0.002, 0.098, 8), (0.03, 0.07, 1)])
def test_the_95_percent_interval_covers_the_share_in_95_percent(enter: float, leave: float, runs: int) -> None:
    """Many states at once: each is an experiment of its own."""
    repeats, frames = 250, 4000 // runs * 4
    occupied = chains(enter, leave, frames, repeats * runs, seed=1).reshape(repeats, runs * frames).T
    brief = [np.tile([[False], [True], [False]], repeats)]  # three frames: R̂ of a series would take the time
    found = estimate_states([""] * repeats, occupied, run_lengths=(frames,) * runs, series=brief)
    share = enter / (enter + leave)
    covered = np.mean([s.low <= share <= s.high for s in found])
    assert 0.91 <= covered <= 0.99
    assert all(0 < s.low < s.share < s.high < 1 for s in found)
    correlation = 1 - enter - leave  # of neighbours in time
    expected = math.sqrt(share * (1 - share) * (1 + correlation) / (1 - correlation) / (runs * frames))
    errors = np.array([s.error for s in found])
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(expected, rel=0.12)


def test_weights_move_the_share_as_in_closed_form() -> None:
    """Frames drawn at p = 0.5 with weights that make them 0.2: the error is the ratio estimator's."""
    rng, frames, repeats = np.random.default_rng(2), 1000, 200
    occupied = rng.random((8 * frames, repeats)) < 0.5
    errors, shares = [], []
    for s in range(repeats):
        column = occupied[:, [s]]
        log_w = np.where(column[:, 0], 0.0, math.log(4.0)) - 700.0
        (found,) = estimate_states(["A"], column, log_w, (frames,) * 8, [column[:3]])
        errors.append(found.error)
        shares.append(found.share)
    expected = math.sqrt((0.5 * 0.8**2 * 1 + 0.5 * 0.2**2 * 16) / 2.5**2 / (8 * frames))
    assert np.mean(shares) == pytest.approx(0.2, abs=5 * expected / math.sqrt(repeats))
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(expected, rel=5 / math.sqrt(2 * 7 * repeats))


def test_states_that_are_never_or_always_there() -> None:
    frames = chains(0.1, 0.1, 500, 4, seed=3)
    occupied = np.stack([np.zeros_like(frames), np.ones_like(frames), frames], axis=-1).reshape(-1, 3)
    never, always, mixed = estimate_states("NAM", occupied, run_lengths=(500,) * 4)
    assert (never.share, never.error, never.low, never.visits, never.effective_frames) == (0, 0, 0, 0, 0)
    assert never.high == pytest.approx(3 / mixed.effective_frames)
    assert (always.share, always.error, always.high, always.visits) == (1, 0, 1, 4)
    assert always.low == pytest.approx(1 - never.high)
    assert math.isnan(never.r_hat)
    assert math.isnan(always.r_hat)


def test_a_frame_without_weight_is_no_visit_of_the_share() -> None:
    occupied = np.zeros((8, 1), dtype=bool)
    occupied[3] = True
    log_w = np.where(occupied[:, 0], -np.inf, 0.0)
    assert estimate_states(["A"], occupied, log_w, (2,) * 4)[0].share == 0
    assert kish(log_w, 8) == 7
    assert kish(None, 8) == 8


@pytest.mark.parametrize(
    ("occupied", "log_weights", "lengths"),
    [
        (np.zeros((4, 2), bool), None, ()),
        (np.zeros((4, 1), bool), None, (2, 3)),
        (np.zeros((0, 1), bool), None, ()),
        (np.zeros((4, 1), bool), [0.0, math.nan, 0, 0], ()),
        (np.zeros((4, 1), bool), [-math.inf] * 4, ()),
        (np.zeros((4, 1), bool), [0.0], ()),
    ],
)
def test_what_does_not_fit_is_refused(occupied: Bools, log_weights: list[float] | None, lengths: tuple[int]) -> None:
    with pytest.raises(ValueError, match=r"give|labels"):
        estimate_states(["A"], occupied, log_weights, lengths)


def test_one_frame_has_no_error() -> None:
    (found,) = estimate_states(["A"], np.ones((1, 1), bool))
    assert (found.share, found.effective_frames, found.visits) == (1, 0, 1)


# --- time ---------------------------------------------------------------------------------------


def test_r_hat_of_long_chains_is_1() -> None:
    assert one(chains(0.1, 0.2, 4000, 4, seed=4)).r_hat == pytest.approx(1.0, abs=0.01)
    assert one(chains(0.1, 0.2, 4000, 1, seed=4)).r_hat == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("inside", itertools.product((False, True), repeat=4))
def test_runs_that_never_change_their_state_do_not_agree(inside: tuple[bool, ...]) -> None:
    found = one(np.repeat(np.array(inside)[:, None], 1001, axis=1))
    if len(set(inside)) == 1:
        assert math.isnan(found.r_hat)
        assert found.effective_frames == 0
    else:
        assert found.r_hat == math.inf
        assert 0 < found.effective_frames < 6
        assert found.visits == sum(inside)


def test_one_run_apart_from_those_that_mix() -> None:
    frames = chains(0.2, 0.2, 1000, 4, seed=5)
    frames[0] = True
    found = one(frames)
    assert found.r_hat > 1.1
    assert found.effective_frames < 30


def test_one_run_that_changes_once_does_not_agree_with_itself() -> None:
    found = one(np.arange(1000)[None] >= 500)
    assert found.r_hat == math.inf
    assert found.effective_frames < 3


def test_effective_frames_are_those_of_the_autocorrelation_time() -> None:
    """Of a two-state chain the autocorrelation is λᵗ, λ = 1 − a − b: N (1 − λ) / (1 + λ) effective frames."""
    found = [one(chains(0.03, 0.05, 5000, 4, seed=s)).effective_frames for s in range(10, 20)]
    expected = 20_000 * 0.08 / 1.92
    assert np.mean(found) == pytest.approx(expected, abs=5 * np.std(found) / math.sqrt(10))
    assert np.mean(found) == pytest.approx(expected, rel=0.1)


def test_mixing_is_of_the_series_and_the_share_of_the_frames() -> None:
    """Weighted frames of all rungs say nothing of time: the lowest rung's series does, cut to the shortest."""
    frames = chains(0.2, 0.2, 200, 4, seed=6).reshape(-1, 1)
    stuck = [np.full((100 + 10 * k, 1), k < 2) for k in range(4)]
    (found,) = estimate_states(["A"], frames, None, (200,) * 4, series=stuck)
    assert found.share == pytest.approx(frames.mean())
    assert (found.r_hat, found.visits) == (math.inf, 2)
