"""Generalised Pareto distribution of the largest weights: its fit, and the weights that it stands for.

With numpy alone, as all samplers, and without the seconds that importing ArviZ takes, whose `psislw` the tests hold it
against. Source: Vehtari, Simpson, Gelman, Yao & Gabry 2024; the fit is that of Zhang & Stephens 2009 with their
weakly informative prior of the shape.
"""

import numpy as np

from .types import FloatArray

PRIOR_SHAPE, PRIOR_DRAWS = 0.5, 10  # of k: as if so many draws had had that shape
PRIOR_SCALE = 3  # of the grid of θ, in quartiles
MIN_TAIL = 5  # weights that a fit needs


def smoothed_tail(log_w: FloatArray, size: int) -> tuple[FloatArray, float]:
    """Log-weights of which those above the `size + 1` largest are replaced by quantiles of a fit to them; and k̂.

    Shape: log_w (n,), finite, n > size. k̂ is +inf, and nothing is replaced, where fewer than five are above.
    """
    top = log_w.max()
    x = log_w - top
    cutoff = max(np.sort(x)[-size - 1], float(np.log(np.finfo(np.float64).tiny)))
    tail = np.flatnonzero(x > cutoff)
    if len(tail) < MIN_TAIL:
        return x + top, np.inf
    tail = tail[np.argsort(x[tail])]
    excess = np.exp(x[tail]) - np.exp(cutoff)
    shape, scale = fit(excess)
    if np.isfinite(shape):
        p = (np.arange(len(tail)) + 0.5) / len(tail)
        quantiles = scale * (np.expm1(-shape * np.log1p(-p)) / shape if shape else -np.log1p(-p))
        x[tail] = np.minimum(np.log(quantiles + np.exp(cutoff)), 0.0)  # none becomes larger than the largest was
    return x + top, shape


def likelihoods(x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Grid of θ = −k/σ, the shape k that is likeliest with each, and the profile likelihood of each, of sum 1.

    Shape: x (n,), positive and ascending → (G,) each. Source: Zhang & Stephens 2009, equations 5 to 7.
    """
    n = len(x)
    points = 30 + int(n**0.5)
    theta = 1 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))
    theta = theta / (PRIOR_SCALE * x[int(n / 4 + 0.5) - 1]) + 1 / x[-1]
    shapes = np.log1p(-theta[:, None] * x).mean(1)
    log_likelihood = n * (np.log(-theta / shapes) - shapes - 1)
    weights = np.exp(log_likelihood - log_likelihood.max())
    return theta, shapes, weights / weights.sum()


def fit(x: FloatArray) -> tuple[float, float]:
    """Shape k and scale σ of a generalised Pareto distribution of x (n,), positive and ascending.

    Empirical Bayes: the profile likelihood of θ = −k/σ on a grid gives θ̂, its mean; k follows from that.
    """
    n, (theta, _, weights) = len(x), likelihoods(x)
    likely = weights >= 10 * np.finfo(np.float64).eps
    theta, weights = theta[likely], weights[likely]
    mean = float((theta * (weights / weights.sum())).sum())
    shape = float(np.log1p(-mean * x).mean())
    scale, total = -shape / mean, n + PRIOR_DRAWS
    return shape * n / total + PRIOR_DRAWS * PRIOR_SHAPE / total, scale
