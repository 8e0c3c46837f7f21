"""Weights of frames: checks, weighted subsampling, and resampling to equal weights.

Weights need not be normalised. Shapes: n frames.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
PHASE = 0.4999  # of systematic samples: no fraction on which equal weights put a boundary, where rounding decides


def weighted_subsample(weights: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
    """Subsample at most k rows by weight: heavy ones keep their weight, the rest is a systematic sample.

    Equal weights give evenly spaced rows. Every weighted mean stays unbiased up to the phase of the
    systematic sample, which is fixed, and no row comes twice.

    Shape: (n,) -> rows (k,), weights (k,).
    Source: Fearnhead & Clifford 2003, section 3.
    """
    if len(weights) <= k:
        return np.arange(len(weights)), weights
    positive = np.flatnonzero(weights)
    if len(positive) <= k:
        return positive, weights[positive]
    ordered = np.sort(weights)[::-1]
    rest = np.cumsum(ordered[::-1])[::-1]  # what remains when the h heaviest are kept as they are
    n_heavy = int(np.argmax(ordered[:k] * (k - np.arange(k)) <= rest[:k]))
    level = rest[n_heavy] / (k - n_heavy)
    cumulative = np.cumsum(np.minimum(weights / level, 1.0))
    rows = np.searchsorted(cumulative, np.arange(k) + PHASE)
    return rows, np.maximum(weights[rows], level)


def systematic_rows(weights: Floats, k: int) -> NDArray[np.int64]:
    """Rows (k,), ascending, that count the same: each as often as k times its share of the weight, up or down to whole.

    The same rows each time. Shape: (n,) -> (k,). Source: Kitagawa 1996, with a fixed phase.
    """
    cumulative = np.cumsum(weights)
    return np.searchsorted(cumulative * (k / cumulative[-1]), np.arange(k) + PHASE)


def normalised_weights(log_weights: Floats | None, n: int) -> Floats:
    """Weights (n,) that sum to 1, equal without log-weights (n,)."""
    if log_weights is None:
        return np.full(n, 1.0 / max(n, 1))
    weights = np.exp(log_weights - log_weights.max())
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def checked_log_weights(log_weights: ArrayLike, n: int, kind: str = "generated") -> Floats:
    """`log_weights` as float64. Raises: ValueError unless there is one a frame, none NaN or +inf, not all -inf."""
    log_w = np.asarray(log_weights, dtype=np.float64)
    if log_w.shape != (n,) or n == 0:
        raise ValueError(f"log_weights has shape {log_w.shape}, expected ({n},): one for each {kind} frame")
    if np.isnan(log_w).any() or log_w.max() == np.inf:
        raise ValueError("log_weights holds NaN or +inf; give failed frames -inf")
    if log_w.max() == -np.inf:
        raise ValueError(f"every log-weight is -inf: no {kind} frame counts; check their energies")
    return log_w
