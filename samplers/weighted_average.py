"""Averages over weighted draws, with intervals that hold where the weights have heavy tails, and say where they do not.

The delta method takes the largest weight that was drawn for the largest there is: its intervals are too short on the
side of a Pareto tail. Here an interval is as wide as that and `tail_bootstrap`, which draws such tails, ask for.

Shapes: n draws, K independent runs.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from .importance_weights import normalised, psis, reliable_k_hat, to_float64
from .rng import generator
from .tail_bootstrap import ratio_replicates
from .types import FloatArray

Values = npt.ArrayLike | torch.Tensor
Scale = Literal["plain", "log", "logit"]

MIN_EFFECTIVE = 20.0  # a tail, and a normal error, need some
REPLICATES = 500
ROUNDING = 1e-12
QUANTILE_95 = 1.959964  # of the normal distribution
STREAM = 32  # of random numbers, apart from the sampler's own stages
MIN_RUNS, BLOCKS = 4, 20  # as of the states of a reference


class Average(NamedTuple):
    """Estimate with its error, its interval, and whether to believe them.

    `error`: standard error; of independent draws half the interval in units of the normal quantile. `k_hat`: Pareto
    shape of the weights, or of either tail of weight × (value − average) where that is larger; None where there are too
    few draws to tell, and of runs. `n_effective`: independent draws of equal weight that would be as good; of runs,
    their number. `reason`: why it is not `usable`, else empty.
    """

    value: float
    error: float
    low: float
    high: float
    k_hat: float | None
    n_effective: float
    usable: bool
    reason: str = ""

    def __str__(self) -> str:
        shape = "" if self.k_hat is None else f", k̂ {self.k_hat:.2f}"
        doubt = "" if self.usable else f"; not to be trusted: {self.reason}"
        return f"{self.value:.6g} ± {self.error:.2g} [{self.low:.6g}, {self.high:.6g}]{shape}{doubt}"


def weighted_average(
    values: Values,
    log_weights: Values | None = None,
    *,
    runs: Sequence[int] = (),
    effective: float = math.inf,
    level: float = 0.95,
    seed: int = 0,
) -> Average:
    """Average values, of booleans the share that is true, with self-normalised weights.

    `runs`: lengths of independent runs, which follow one another, of correlated frames: the error is that between runs,
    by the jackknife with Student's t; of fewer than four, between contiguous blocks, 20 in all (Künsch 1989).
    `effective`: independent draws that all are worth at most, such as SMC's distinct ancestors. A share of which
    nothing was drawn has an upper bound of 3 / n_effective (Hanley & Lippman-Hand 1983).

    Shape: values (n,), log_weights (n,), -inf for what failed; without them all count the same.
    Raises: ValueError for shapes that do not fit, or values of draws with a weight that are not finite.
    """
    weights, f = _checked(values, log_weights)
    share = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values).dtype == bool
    return _ratio(weights * f, weights, weights, "logit" if share else "plain", runs, effective, level, seed)


def weighted_log_ratio(
    first: Values,
    second: Values,
    log_weights: Values | None = None,
    *,
    runs: Sequence[int] = (),
    effective: float = math.inf,
    level: float = 0.95,
    seed: int = 0,
) -> Average:
    """Logarithm of the ratio of two averages, such as the shares of two basins: that times −kT is F(first) − F(second).

    Arguments are those of `weighted_average`, values zero or more. Where an average is zero it is infinite, not usable.
    """
    weights, f = _checked(first, log_weights)
    h = _checked(second, log_weights)[1]
    if min(f.min(), h.min()) < 0:
        raise ValueError("a logarithm is taken of both averages: give values of zero or more")
    return _ratio(weights * f, weights * h, weights, "log", runs, effective, level, seed)


def _checked(values: Values, log_weights: Values | None) -> tuple[FloatArray, FloatArray]:
    """Weights of sum 1; values, zero where there is no weight."""
    f = to_float64(values)
    if f.ndim != 1 or len(f) == 0:
        raise ValueError(f"values have shape {f.shape}: give one for each draw, (n,) with n > 0")
    weights = normalised(np.zeros(len(f)) if log_weights is None else log_weights)
    if weights.shape != f.shape:
        raise ValueError(f"{len(f)} values with {len(weights)} log-weights: give one of each for a draw")
    f = np.where(weights > 0, f, 0.0)
    if wrong := int((~np.isfinite(f)).sum()):
        raise ValueError(f"{wrong} of {len(f)} values are NaN or infinite, and have a weight: give such draws −inf")
    return weights, f


def _ratio(
    above: FloatArray,
    below: FloatArray,
    weights: FloatArray,
    scale: Scale,
    runs: Sequence[int],
    effective: float,
    level: float,
    seed: int,
) -> Average:
    """Σ above / Σ below on a scale: both are sums over draws of weight times value."""
    if len(runs) and (min(runs) < 1 or sum(runs) != len(above)):
        raise ValueError(f"runs={list(runs)}: give the frames of each run, {len(above)} in all")
    top, bottom = float(above.sum()), float(below.sum())
    kish = 1.0 / float(np.square(weights).sum())
    n_effective = min(kish, effective)
    if scale == "log" and not (top > 0 and bottom > 0):
        value = math.inf if top > 0 else -math.inf if bottom > 0 else math.nan
        return Average(value, math.inf, -math.inf, math.inf, None, n_effective, False, "nothing was drawn of a state")
    ratio = min(top / bottom, 1.0) if scale == "logit" else top / bottom
    influence = (above - ratio * below) / bottom  # of each draw on the ratio
    certain = scale == "logit" and ratio in (0.0, 1.0)  # one draw has all the weight, but for rounding
    if certain or (np.abs(influence) <= ROUNDING * np.abs(ratio * below) / bottom).all():
        k_hat, n = (None, float(len(_groups(runs)))) if len(runs) else (_shape(weights), n_effective)
        said = (True, "") if len(runs) else _judged(k_hat, n, len(weights))
        return Average(*_unvaried(ratio, scale, n, level), k_hat, n, *said)
    if len(runs):
        return _between_runs(above, below, ratio, scale, runs, level)
    forth, back, slope = SCALES[scale]
    quantile = NormalDist().inv_cdf(0.5 + level / 2)
    reach = quantile * float(np.linalg.norm(influence)) * slope(ratio)
    replicates = ratio_replicates(above, below, influence, REPLICATES, generator(seed, STREAM))
    centre = float(forth(ratio))
    ends = np.quantile(forth(replicates), [0.5 - level / 2, 0.5 + level / 2]) - centre
    widen = math.sqrt(kish / n_effective)
    low, high = float(back(centre + widen * min(ends[0], -reach))), float(back(centre + widen * max(ends[1], reach)))
    # The contributions themselves, too: one that is huge moves the mean, and beside it all others look alike.
    shapes = [_shape(part) for part in (weights, influence, -influence, above, -above)]
    k_hat = max((k for k in shapes if k is not None), default=None)
    value = ratio if scale == "logit" else centre
    said = _judged(k_hat, n_effective, len(weights))
    return Average(value, (high - low) / (2 * quantile), low, high, k_hat, n_effective, *said)


def _judged(k_hat: float | None, n_effective: float, draws: int) -> tuple[bool, str]:
    limit = reliable_k_hat(draws)
    if k_hat is not None and not k_hat <= limit:
        return False, f"Pareto k̂ is {k_hat:.2f}, above {limit:.2f}: a few draws decide it"
    if n_effective < MIN_EFFECTIVE:
        return False, f"{n_effective:.0f} effective draws, fewer than {MIN_EFFECTIVE:.0f}"
    return True, ""


def _unvaried(ratio: float, scale: Scale, n: float, level: float) -> tuple[float, float, float, float]:
    """Value, error and interval where all of n draws say the same."""
    if scale == "logit":
        unseen = min(-math.log(1 - level) / n, 1.0)
        return (ratio, 0.0, 0.0, unseen) if ratio < 0.5 else (ratio, 0.0, 1.0 - unseen, 1.0)
    value = float(SCALES[scale][0](ratio))
    return value, 0.0, value, value


def _shape(influence: FloatArray) -> float | None:
    """Pareto k̂ of the tail of what is above zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(influence)
    logs[~(influence > 0)] = -np.inf
    return psis(logs)[1] if (influence > 0).any() else None


def _between_runs(
    above: FloatArray, below: FloatArray, ratio: float, scale: Scale, runs: Sequence[int], level: float
) -> Average:
    """Jackknife over runs, or over blocks of fewer than four (Quenouille 1956)."""
    from scipy.stats import t

    starts = _groups(runs)
    sums = np.stack([np.add.reduceat(part, starts) for part in (above, below)])
    forth, back, slope = SCALES[scale]
    centre, k = float(forth(ratio)), len(starts)
    if k < 2:
        return Average(float(back(centre)), math.nan, math.nan, math.nan, None, 1.0, False, "a single frame")
    with np.errstate(divide="ignore", invalid="ignore"):
        without = forth((sums[0].sum() - sums[0]) / (sums[1].sum() - sums[1]))
    if not np.isfinite(without).all():  # one run has it all: on the plain scale there is still an error
        without = centre + slope(ratio) * (np.clip((sums[0].sum() - sums[0]) / sums[1].sum(), 0, 1) - ratio)
    error = math.sqrt((k - 1) * float(np.mean((without - without.mean()) ** 2)))
    reach = float(t.ppf(0.5 + level / 2, k - 1)) * error
    low, high = float(back(centre - reach)), float(back(centre + reach))
    plain = error / slope(ratio) if scale == "logit" else error
    return Average(ratio if scale == "logit" else centre, plain, low, high, None, float(k), True)


def _groups(runs: Sequence[int]) -> npt.NDArray[np.int64]:
    """First frames of runs, or of contiguous blocks of fewer than four."""
    lengths = np.asarray(runs, dtype=np.int64)
    each = 1 if len(lengths) >= MIN_RUNS else max(BLOCKS // len(lengths), 1)
    parts = [
        end - n + np.arange(min(each, n)) * n // min(each, n) for n, end in zip(lengths, lengths.cumsum(), strict=True)
    ]
    starts: npt.NDArray[np.int64] = np.concatenate(parts)
    return starts


def _logit(p: Any) -> Any:
    with np.errstate(divide="ignore"):
        return np.log(p) - np.log1p(-np.minimum(p, 1.0))


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def _log(x: Any) -> Any:
    with np.errstate(divide="ignore"):
        return np.log(x)


# To the scale on which an interval is laid, back to that of the result, and the derivative of the first.
SCALES: dict[Scale, tuple[Callable[[Any], Any], Callable[[float], float], Callable[[float], float]]] = {
    "plain": (lambda x: x, lambda x: x, lambda x: 1.0),
    "log": (_log, lambda x: x, lambda x: 1 / x),
    "logit": (_logit, _expit, lambda p: 1 / (p * (1 - p))),
}
