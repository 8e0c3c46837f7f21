"""Bootstrap of a ratio of sums whose terms have heavy tails: the tails are drawn from Pareto distributions that fit.

Shapes: n draws, B replicates, m draws of a tail.
"""

import numpy as np

from .pareto import likelihoods
from .types import FloatArray

CHUNK = 2_000_000  # random numbers held at once
MIN_TAIL = 5  # draws that a Pareto distribution is fitted to
MAX_SHAPE = 0.9  # from 1 on the mean is infinite; an average whose tail may be such is not called usable
LEVEL = 1e-9  # a tail that rises by less, relative to where it begins, is none


def ratio_replicates(
    above: FloatArray, below: FloatArray, influence: FloatArray, replicates: int, rng: np.random.Generator
) -> FloatArray:
    """Replicates of Σ above / Σ below, terms of which the sum of `influence` is zero; both tails of that are modelled.

    A term of the body gets an exponential weight. The largest min(n/5, 3√n) on either side get one mean together,
    drawn from the Pareto distributions that fit them, and keep their proportions.

    Shape: (n,) each -> (B,).
    Source: Rubin 1981 (Bayesian bootstrap); tails: Zhang & Stephens 2009, the grid of whose profile likelihood is
    drawn from, where PSIS (Vehtari et al. 2024) takes its mean.
    """
    body = np.ones(len(influence), dtype=bool)
    sums = np.zeros((2, replicates))
    for side in (influence, -influence):
        rows = largest(side)
        if not len(rows):
            continue
        start = float(side[rows[0]])
        excess = side[rows[1:]] - start
        if len(excess) < MIN_TAIL or excess[len(excess) // 4] <= LEVEL * max(start, 0.0):
            continue
        tail = rows[1:]
        body[tail] = False
        mean = (start + mean_excess(excess, replicates, rng)) * rng.gamma(len(tail), size=replicates)
        sums += np.stack([above[tail].sum(), below[tail].sum()])[:, None] / side[tail].sum() * mean
    terms = np.stack([above[body], below[body]], axis=1)
    size = max(1, CHUNK // max(len(terms), 1))
    for first in range(0, replicates, size):
        here = slice(first, first + size)
        sums[:, here] += (rng.standard_exponential((len(sums[0, here]), len(terms))) @ terms).T
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: FloatArray = sums[0] / sums[1]
    return ratio


def largest(values: FloatArray) -> np.ndarray:
    """Rows of the tail of the values above zero, ascending, after that at which the tail begins; none of too few."""
    n = int((values > 0).sum())
    size = int(np.ceil(min(n / 5, 3 * n**0.5)))
    return np.argsort(values, kind="stable")[-size - 1 :] if MIN_TAIL <= size < len(values) else np.array([], dtype=int)


def mean_excess(excess: FloatArray, replicates: int, rng: np.random.Generator) -> FloatArray:
    """Means (B,) of generalised Pareto distributions that may have given the excesses (m,), which ascend from zero."""
    theta, shape, likelihood = likelihoods(excess)
    row = rng.choice(len(theta), size=replicates, p=likelihood)
    scale = -shape[row] / theta[row]
    mean: FloatArray = scale / (1 - np.minimum(shape[row], MAX_SHAPE))
    return mean
