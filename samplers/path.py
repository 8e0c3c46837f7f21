"""Schedules of the annealing path, from λ = 0 to exactly 1."""

import math

import numpy as np

from .importance_weights import fraction_left, normalised
from .types import FloatArray

_SMALLEST_INCREMENT = 1e-300
_TOLERANCE = 1e-3  # relative, on the increment


def linear_lambda(step: int, n_steps: int) -> float:
    """λ after `step` of `n_steps` equal increments, both ends included: 0 at step 0, 1 at step n_steps."""
    return step / n_steps


def adaptive_lambda(lam: float, log_ratio: FloatArray, log_w: FloatArray, cess_target: float) -> float:
    """Next λ at which the conditional ESS is `cess_target`, or 1 if that is within reach.

    Bisects the logarithm of the increment, since a bad proposal (log π̃ − log q of −10⁷ and far below) needs
    first increments of 10⁻⁹ or much less. The conditional ESS falls monotonically with the increment.
    Failed particles (log_ratio −inf) are left out: they drop out at any λ > 0, a small step cannot save them.

    Shape: log_ratio, log_w (n,). Source: Zhou, Johansen & Aston 2016.
    """
    alive = np.isfinite(log_ratio) & np.isfinite(log_w)
    log_ratio = log_ratio[alive]
    if len(log_ratio) == 0:
        return 1.0
    weights = normalised(log_w[alive])
    if fraction_left(weights, (1.0 - lam) * log_ratio) >= cess_target:
        return 1.0
    low, high = math.log(_SMALLEST_INCREMENT), math.log(1.0 - lam)
    while high - low > _TOLERANCE:
        middle = 0.5 * (low + high)
        if fraction_left(weights, math.exp(middle) * log_ratio) >= cess_target:
            low = middle
        else:
            high = middle
    return min(max(lam + math.exp(low), math.nextafter(lam, 2.0)), 1.0)
