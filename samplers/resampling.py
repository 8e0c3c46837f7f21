"""Four resampling schemes with one signature: (weights, n, generator) -> ancestors.

weights (m,) ≥ 0, any scale; ancestors (n,) int64, ascending, so that rows of a block stay near each other.
Each is unbiased: index i is drawn n·wᵢ/Σw times on average. A weight of zero is never drawn.
Source: Chopin & Papaspiliopoulos 2020, chapter 9.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .importance_weights import normalised
from .types import FloatArray, IntArray

Resampler = Callable[[npt.NDArray[Any], int, np.random.Generator], IntArray]
Scheme = Literal["systematic", "stratified", "multinomial", "residual"]


def _checked(weights: npt.NDArray[Any]) -> FloatArray:
    array = np.asarray(weights, dtype=np.float64)
    total = array.sum()
    if array.ndim != 1 or not (np.isfinite(total) and total > 0.0 and array.min() >= 0.0):
        raise ValueError("weights to resample by must be finite, not negative and not all zero, shape (n,)")
    return array / total


def _invert(weights: FloatArray, uniforms: FloatArray) -> IntArray:
    """Indices where ascending uniforms, which are changed, fall in the cumulative weights.

    The sum is float64 and ends at exactly 1, uniforms end below 1, and a step of width zero contains none: so
    the last index is in range and a zero weight is never drawn.
    """
    cumulative = np.cumsum(weights)
    cumulative /= cumulative[-1]
    np.minimum(uniforms, np.nextafter(1.0, 0.0), out=uniforms)
    return np.searchsorted(cumulative, uniforms, side="right").astype(np.int64, copy=False)


def systematic(weights: npt.NDArray[Any], n: int, generator: np.random.Generator) -> IntArray:
    """One uniform, n equidistant points."""
    return _invert(_checked(weights), (np.arange(n) + generator.random()) / n)


def stratified(weights: npt.NDArray[Any], n: int, generator: np.random.Generator) -> IntArray:
    """One uniform in each of n strata."""
    return _invert(_checked(weights), (np.arange(n) + generator.random(n)) / n)


def multinomial(weights: npt.NDArray[Any], n: int, generator: np.random.Generator) -> IntArray:
    """n independent draws."""
    return _invert(_checked(weights), np.sort(generator.random(n)))


def residual(weights: npt.NDArray[Any], n: int, generator: np.random.Generator) -> IntArray:
    """⌊n·w⌋ copies of each, the rest multinomial by what is left over."""
    expected = n * _checked(weights)
    copies = np.floor(expected).astype(np.int64)
    rest = n - int(copies.sum())
    if rest > 0:
        copies += np.bincount(multinomial(expected - copies, rest, generator), minlength=len(copies))
    return np.repeat(np.arange(len(copies)), copies)


SCHEMES: dict[str, Resampler] = {
    "systematic": systematic,
    "stratified": stratified,
    "multinomial": multinomial,
    "residual": residual,
}


def resample(log_w: npt.ArrayLike, n: int, generator: np.random.Generator, scheme: Scheme) -> IntArray:
    """Ancestors (n,) by log-weights. Raises: ValueError for an unknown scheme or all weights zero."""
    if scheme not in SCHEMES:
        raise ValueError(f"unknown resampling scheme {scheme!r}; choose one of {', '.join(SCHEMES)}")
    return SCHEMES[scheme](normalised(log_w), n, generator)
