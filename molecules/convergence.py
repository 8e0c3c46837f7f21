"""Convergence of a reference as numbers: the share of each state, its error, and whether its runs agree.

Shapes: T frames, S states, K independent runs.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MIN_RUNS = 4  # independent ones, for an error between runs and for R̂ (Vehtari et al. 2021 advise four)
BLOCKS = 20  # in all, that stand in for runs where there are fewer


@dataclass(frozen=True, kw_only=True)
class StateEstimate:
    """Share of one state in an ensemble, its standard error and 95 % interval, and how well it was sampled.

    `r_hat`: rank-normalised split R̂ of its time series; ∞ when each run stays where it began, NaN where no run ever
    enters or ever leaves it. `effective_frames`: independent frames that would give the share as well; 0 in that case.
    `visits`: stretches of time in the state, over all runs.
    """

    label: str
    share: float
    error: float
    low: float
    high: float
    r_hat: float
    effective_frames: float
    visits: int


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Rise of a mean from the first half of independent runs to the second, and its standard error between them."""

    rise: float
    error: float
    runs: int

    @property
    def certain(self) -> bool:
        """Return True if runs at equilibrium would show as much once in two hundred times."""
        from scipy.stats import t

        return bool(abs(self.rise) > t.ppf(0.9975, self.runs - 1) * self.error)


def drift_of(series: Sequence[Floats]) -> Drift | None:
    """Drift of a quantity over K runs, each in order of time (T_i,); None of fewer than four, or of single frames.

    What all runs share, such as a warm-up that was too short, R̂ between them does not see.
    """
    if len(series) < MIN_RUNS or min(map(len, series)) < 2:
        return None
    rises = [run[-(len(run) // 2) :].mean() - run[: len(run) // 2].mean() for run in series]
    return Drift(rise=float(np.mean(rises)), error=float(np.std(rises, ddof=1)) / len(rises) ** 0.5, runs=len(rises))


def estimate_states(
    labels: Sequence[str],
    occupied: Bools,
    log_weights: ArrayLike | None = None,
    run_lengths: Sequence[int] = (),
    series: Sequence[Bools] | None = None,
) -> list[StateEstimate]:
    """Estimate the share of each state from K independent runs, which follow one another; none given: one run.

    The standard error is that of the ratio estimator by the jackknife over runs (Quenouille 1956); the interval is
    Student's t with K − 1 degrees of freedom about the logit, which keeps it between 0 and 1 and fits rare states. Of
    fewer than four runs the jackknife leaves out contiguous blocks, 20 in all (Künsch 1989): too narrow where a state
    lasts longer than a block. Of a state that is never seen `high` is 3 / n (Hanley & Lippman-Hand 1983), n the fewest
    effective frames of a state that is; of one that is never left `low` is 1 − 3 / n.

    `series`: each run's states (T_i, S) in order of time, for R̂, effective frames and visits; the frames themselves
    unless given. Frames of several temperatures have no such order: give those of the lowest. The shortest run's length
    is taken of each.

    Shape: (T, S), log_weights (T,), run_lengths K of them, of sum T.
    Raises: ValueError for shapes that do not fit, weights that are NaN, or none above zero.
    Source: R̂ and effective frames: Vehtari et al. 2021, through ArviZ.
    """
    lengths = tuple(run_lengths) or (len(occupied),)
    if occupied.shape != (sum(lengths), len(labels)) or not len(occupied) or min(lengths) < 1:
        raise ValueError(f"states of shape {occupied.shape} for {len(labels)} labels, runs of {lengths} frames")
    weights = _weights(log_weights, len(occupied))
    starts = np.cumsum((0, *lengths[:-1]))
    runs = list(np.split(occupied, starts[1:])) if series is None else list(series)
    if any(run.ndim != 2 or run.shape[1] != len(labels) or not len(run) for run in runs):
        raise ValueError(f"series of shapes {[run.shape for run in runs]}: give (T, {len(labels)}) each, T ≥ 1")
    shares, errors, groups = _jackknife(occupied, weights, starts if len(lengths) >= MIN_RUNS else _blocks(lengths))
    r_hats, effective = _mixing(runs)
    still = np.all([run.all(axis=0) for run in runs], axis=0) | ~np.any([run.any(axis=0) for run in runs], axis=0)
    fewest = max(min(effective[effective > 0], default=0.0), float(len(runs)))
    low, high = _intervals(shares, errors, groups, fewest, still)
    visits = sum(run[0].astype(np.int64) + (~run[:-1] & run[1:]).sum(axis=0) for run in runs)
    columns = (shares, errors, low, high, r_hats, effective)
    return [
        StateEstimate(
            label=label,
            share=values[0],
            error=values[1],
            low=values[2],
            high=values[3],
            r_hat=values[4],
            effective_frames=values[5],
            visits=int(n),
        )
        for label, n, *values in zip(labels, np.atleast_1d(visits), *map(np.ndarray.tolist, columns), strict=True)
    ]


def kish(log_weights: ArrayLike | None, n: int) -> float:
    """Effective frames of n weights: (Σw)² / Σw². Source: Kish 1965."""
    weights = _weights(log_weights, n)
    return float(weights.sum() ** 2 / np.square(weights).sum())


# --- shares -------------------------------------------------------------------------------------


def _weights(log_weights: ArrayLike | None, n: int) -> Floats:
    log_w = np.zeros(n) if log_weights is None else np.asarray(log_weights, dtype=np.float64)
    if log_w.shape != (n,) or np.isnan(log_w).any() or not np.isfinite(log_w.max()):
        raise ValueError(f"log_weights of shape {log_w.shape}: give one for each of {n} frames, no NaN, one above −inf")
    weights: Floats = np.exp(log_w - log_w.max())
    return weights


def _blocks(lengths: Sequence[int]) -> NDArray[np.int64]:
    """First frames of contiguous blocks within runs."""
    each = max(BLOCKS // len(lengths), 1)
    starts, begin = [], 0
    for length in lengths:
        starts.append(begin + np.arange(min(each, length)) * length // min(each, length))
        begin += length
    return np.concatenate(starts)


def _jackknife(occupied: Bools, weights: Floats, starts: NDArray[np.int64]) -> tuple[Floats, Floats, int]:
    """Ratio estimates (S,), their standard errors, and the number of groups, which begin at `starts`."""
    inside = np.add.reduceat(weights[:, None] * occupied, starts, axis=0)
    total = np.add.reduceat(weights, starts)[:, None]
    shares = np.clip(inside.sum(axis=0) / total.sum(), 0.0, 1.0)
    shares[~occupied[weights > 0].any(axis=0)] = 0.0
    shares[occupied[weights > 0].all(axis=0)] = 1.0
    k = len(starts)
    if k < 2:
        return shares, np.full_like(shares, np.nan), k
    with np.errstate(invalid="ignore", divide="ignore"):
        without = (inside.sum(axis=0) - inside) / (total.sum() - total)
    without = np.where(np.isfinite(without), without, shares)  # one group has all the weight
    errors = np.sqrt((k - 1) * np.mean((without - without.mean(axis=0)) ** 2, axis=0))
    errors[(shares == 0) | (shares == 1)] = 0.0
    return shares, errors, k


def _intervals(
    shares: Floats, errors: Floats, groups: int, fewest: float, still: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Intervals (S,) each; `still`: states that no series enters or leaves, whose error says nothing."""
    from scipy.special import expit, logit
    from scipy.stats import t

    quantile = t.ppf(0.975, groups - 1) if groups > 1 else math.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        middle, width = logit(shares), quantile * errors / (shares * (1 - shares))
        low, high = expit(middle - width), expit(middle + width)
    unseen = min(3.0 / fewest, 1.0)
    low = np.where(shares == 0, 0.0, np.where(still & (shares > 0.5), np.fmin(low, 1 - unseen), low))
    high = np.where(shares == 1, 1.0, np.where(still & (shares < 0.5), np.fmax(high, unseen), high))
    return low, high


# --- time ---------------------------------------------------------------------------------------


def _mixing(runs: Sequence[Bools]) -> tuple[Floats, Floats]:
    """R̂ and effective frames of each state. Shape: (T_i, S) each -> two of (S,)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # ArviZ announces its next version at import
        from arviz.stats import ess, rhat  # slow to import

    shortest = min(map(len, runs))
    chains = np.stack([run[:shortest] for run in runs]).astype(np.float64)
    n_states = chains.shape[2]
    r_hats, effective = np.full(n_states, np.nan), np.zeros(n_states)
    if len(runs) == 1:  # its halves, which ArviZ halves again
        half = shortest // 2
        split = np.stack([chains[0, :half], chains[0, shortest - half :]])
    else:
        split = chains
    for s in np.flatnonzero(np.ptp(chains, axis=(0, 1)) > 0):
        if split.shape[1] < 4:  # ArviZ's least: unknown, and no evidence
            continue
        effective[s] = min(float(ess(chains[:, :, s], method="mean")), chains[:, :, s].size)
        halves = _halves(split[:, :, s])
        if np.ptp(halves, axis=1).any():
            r_hats[s] = float(rhat(split[:, :, s], method="rank"))
        elif np.ptp(halves):
            r_hats[s] = np.inf  # ArviZ: ∞, 10¹⁵ or NaN, as rounding has it
    return r_hats, effective


def _halves(chains: Floats) -> Floats:
    half = chains.shape[1] // 2
    return np.concatenate([chains[:, :half], chains[:, chains.shape[1] - half :]])
