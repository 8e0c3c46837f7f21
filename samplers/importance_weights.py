"""Importance weights, always as logarithms, always all of them.

A weight of zero (log −inf) is a legal value: a failed conformation. Shape: log_w (n,). Arrays or CPU tensors.
"""

import math
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from .pareto import smoothed_tail
from .types import FloatArray

Treatment = Literal["none", "psis", "truncate", "drop_top"]
TREATMENTS: tuple[str, ...] = get_args(Treatment)
DROPPED_FRACTION = 0.002  # the published protocol of SBG: the largest 0.2 % are discarded
MIN_TAIL_DRAWS = 21  # weights above zero: a fifth of fewer is no tail to fit (five are needed)
MAX_K_HAT = 0.7  # above it no practical number of draws settles an average (Vehtari et al. 2024)
EQUAL = 1e-9  # log-weights that differ by less are equal but for rounding


def to_float64(values: npt.ArrayLike | torch.Tensor) -> FloatArray:
    """A float64 array of an array or a tensor on any device."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def checked_log_weights(log_w: npt.ArrayLike | torch.Tensor) -> FloatArray:
    """`log_w` as float64.

    Raises: ValueError if it is empty, if any is NaN or +inf, or if all are −inf.
    """
    array = to_float64(log_w)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"log-weights have shape {array.shape}; give one per particle, (n,) with n > 0")
    if np.isnan(array).any() or np.isposinf(array).any():
        raise ValueError("log-weights hold NaN or +inf; mark failed conformations by -inf")
    if np.isneginf(array).all():
        raise ValueError(
            f"all {len(array)} particles have weight zero: every evaluation failed, or no particle is in the "
            "target's support; check energies and units of a few proposals"
        )
    return array


def log_mean_exp(log_w: npt.ArrayLike | torch.Tensor) -> float:
    """log of the mean weight."""
    array = checked_log_weights(log_w)
    top = array.max()
    return float(top + np.log(np.exp(array - top).mean()))


def normalised(log_w: npt.ArrayLike | torch.Tensor) -> FloatArray:
    """Weights that sum to 1."""
    array = checked_log_weights(log_w)
    weights = array - array.max()
    np.exp(weights, out=weights)
    weights /= weights.sum()
    return weights


def ess(log_w: npt.ArrayLike | torch.Tensor) -> float:
    """Kish effective sample size as a fraction of n: (Σw)² / (n Σw²). Source: Kish 1965."""
    weights = normalised(log_w)
    return float(1.0 / (len(weights) * np.square(weights, out=weights).sum()))


def conditional_ess(log_w: npt.ArrayLike | torch.Tensor, increment: FloatArray) -> float:
    """Fraction of the sample left by one reweighting, whatever the weights were: (ΣWu)² / ΣWu², log u = `increment`.

    Source: Zhou, Johansen & Aston 2016.
    """
    return fraction_left(normalised(log_w), increment)


def fraction_left(weights: FloatArray, increment: FloatArray) -> float:
    """`conditional_ess` of normalised weights."""
    top = increment.max()
    if np.isneginf(top):
        return 0.0
    factor = increment - top
    np.exp(factor, out=factor)
    product = weights * factor
    first = float(product.sum())
    np.multiply(weights, np.square(factor, out=factor), out=product)
    second = float(product.sum())
    return first**2 / second if second > 0.0 else 0.0


def log_z_error(
    log_w: npt.ArrayLike | torch.Tensor, eve: npt.NDArray[Any] | None = None, n_proposals: int | None = None
) -> float:
    """Standard error of the log of the mean weight, by the delta method.

    With Eve indices `eve` (n,), the proposal from which each particle descends, of `n_proposals` (n unless given),
    weights are summed by family before their spread is taken, which accounts for resampling; near 1 when a single
    family is left.
    Source: Chan & Lai 2013, Lee & Whiteley 2018; without resampling it is the textbook √((n/ESS − 1)/n).
    """
    weights = normalised(log_w)
    n = n_proposals or len(weights)
    families = weights if eve is None else np.bincount(eve, weights=weights, minlength=n)
    return float(np.sqrt(np.square(families - 1.0 / n).sum() * n / max(n - 1, 1)))


def psis(log_w: npt.ArrayLike | torch.Tensor) -> tuple[FloatArray, float | None]:
    """Pareto-smoothed log-weights and the shape k̂, which `reliable_k_hat` judges.

    Of the m weights above zero, the tail is the largest min(m/5, 3√m). k̂ is None for m < 21, which is too few to fit
    one; 0 when nothing is larger than the weight at which the tail would begin, as where all are equal; +inf when one
    to four are, which then are the whole tail. In these three cases nothing is smoothed.
    Source: Vehtari et al. 2024.
    """
    array = checked_log_weights(log_w)
    smoothed, alive = array.copy(), array > -np.inf  # zeros are below any tail
    finite = array[alive]
    if len(finite) < MIN_TAIL_DRAWS:
        return smoothed, None
    size = int(np.ceil(min(len(finite) / 5, 3 * len(finite) ** 0.5)))
    if finite.max() - np.sort(finite)[-size - 1] < EQUAL:  # a fit would call the best case the worst
        return smoothed, 0.0
    smoothed[alive], shape = smoothed_tail(finite, size)
    return smoothed, shape


def reliable_k_hat(n: int) -> float:
    """Largest k̂ for which n draws settle an average: min(1 − 1/log₁₀ n, 0.7). Source: Vehtari et al. 2024."""
    return min(1.0 - 1.0 / math.log10(max(n, 11)), MAX_K_HAT)


def treat(log_w: npt.ArrayLike | torch.Tensor, treatment: Treatment) -> FloatArray:
    """Log-weights after one treatment of their largest values.

    `none`; `psis`; `truncate` at √n · mean (Ionides 2008); `drop_top`, the largest 0.2 % set to zero (SBG).
    """
    array = checked_log_weights(log_w)
    if treatment == "none":
        return array
    if treatment == "psis":
        return psis(array)[0]
    if treatment == "truncate":
        return np.minimum(array, log_mean_exp(array) + 0.5 * np.log(len(array)))
    if treatment == "drop_top":
        # By rank, so that ties cannot drop more. They become zeros and are not removed: n stays that of the proposals.
        dropped = np.argsort(array, kind="stable")[len(array) - int(DROPPED_FRACTION * len(array)) :]
        kept = array.copy()
        kept[dropped] = -np.inf
        return checked_log_weights(kept)
    raise ValueError(f"unknown weight treatment {treatment!r}; choose one of {', '.join(TREATMENTS)}")
