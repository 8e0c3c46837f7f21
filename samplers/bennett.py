"""Free energy between two targets from weighted draws of both: the Bennett acceptance ratio.

Shapes: n draws of the first, m of the second.
"""

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import torch

from .importance_weights import normalised, to_float64
from .weighted_average import Average, weighted_average

MAX_ITERATIONS, TOLERANCE = 200, 1e-8

Values = npt.ArrayLike | torch.Tensor


def bennett(
    of_first: Values,
    of_second: Values,
    log_w_first: Values | None = None,
    log_w_second: Values | None = None,
    *,
    effective: tuple[float, float] = (math.inf, math.inf),
    level: float = 0.95,
    seed: int = 0,
) -> Average:
    """Estimate −ln(Z₂/Z₁), of targets exp(−u₁) and exp(−u₂), from reduced energy differences u₂ − u₁.

    Draws of each target may have self-normalised weights, for which pymbar's has no place; `effective`: see
    `weighted_average`, one for each.

    Shape: of_first (n,), of_second (m,): u₂ − u₁ at draws of the first and of the second. Units: kT, each of its own.
    Raises: ValueError as `weighted_average`, and where the two do not overlap.
    Source: Bennett 1976, equations 12 and 13, averages weighted.
    """
    x, y = to_float64(of_first), to_float64(of_second)
    weights = [normalised(np.zeros(len(v)) if w is None else w) for v, w in ((x, log_w_first), (y, log_w_second))]
    kish = [min(1.0 / float(np.square(w).sum()), e) for w, e in zip(weights, effective, strict=True)]
    offset = math.log(kish[0] / kish[1])
    difference = 0.0
    for _ in range(MAX_ITERATIONS):
        shift = difference + offset
        up, down = float(weights[0] @ _fermi(x - shift)), float(weights[1] @ _fermi(shift - y))
        if not (up > 0 and down > 0):
            raise ValueError("the two ensembles do not overlap: put others between them")
        found = shift - math.log(up / down)
        if abs(found - difference) < TOLERANCE:
            break
        difference = found
    shift = difference + offset
    parts = [
        weighted_average(_fermi(x - shift), log_w_first, effective=effective[0], level=level, seed=seed),
        weighted_average(_fermi(shift - y), log_w_second, effective=effective[1], level=level, seed=seed + 1),
    ]
    error = math.hypot(*(part.error / part.value for part in parts))
    reach = NormalDist().inv_cdf(0.5 + level / 2) * error
    shapes = [part.k_hat for part in parts if part.k_hat is not None]
    reason = next((part.reason for part in parts if not part.usable), "")
    return Average(
        difference,
        error,
        difference - reach,
        difference + reach,
        max(shapes, default=None),
        min(kish),
        not reason,
        reason,
    )


def _fermi(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """1 / (1 + eˣ), without overflow."""
    small = np.exp(-np.abs(x))
    result: npt.NDArray[np.float64] = np.where(x > 0, small, 1.0) / (1.0 + small)
    return result
