"""Distribution of the centre of mass, which the energy leaves open and the target must specify."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .types import FloatArray

CenterOfMass = Literal["gaussian", "radial", "none"]
ASTRAY = 20.0  # times the median of |m|²: of normal numbers, one in 10⁹ is beyond


def com_log_density(
    x: Tensor, mode: CenterOfMass = "gaussian", temperature_ratio: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Centre-of-mass term of log π̃ (up to a constant) and its gradient.

    `gaussian`: −N|x̄|²/(2·temperature_ratio), the distribution with which the flow is trained: it costs no ESS.
    `radial`: the same + log|x̄|², for comparison with published tables only: it costs 40 % of the ESS and has
    no gradient at x̄ = 0. `none`: no term, for comparison with tables of generators that leave it out.
    `temperature_ratio` is T/T₀ under temperature transfer: the variance of the centre of mass grows with the base's.

    Shape: x (B, N, 3) -> (B,) float64, (B, N, 3) float64. Units: normalised coordinates.
    Raises: ValueError for an unknown mode.
    """
    center_B3 = x.double().mean(dim=1)
    square_B = center_B3.square().sum(dim=1)
    log_density = -0.5 * x.shape[1] * square_B / temperature_ratio
    gradient = -center_B3 / temperature_ratio  # ∂x̄/∂xᵢ = 1/N takes the factor N away
    if mode == "radial":
        log_density = log_density + square_B.log()
        gradient = gradient + 2.0 * center_B3 / (x.shape[1] * square_B[:, None])
    elif mode == "none":
        log_density, gradient = torch.zeros_like(log_density), torch.zeros_like(gradient)
    elif mode != "gaussian":
        raise ValueError(f"unknown centre-of-mass distribution {mode!r}; choose gaussian, radial or none")
    return log_density, gradient[:, None, :].expand(x.shape)


class BinsCenter(NamedTuple):
    """Centre-of-mass term of log π̃ (n,) of draws over bins, and the spread that was fitted, in normalised units."""

    log_density: FloatArray
    spread: float


def bins_com_log_density(center: FloatArray, n_atoms: int) -> BinsCenter:
    """Centre-of-mass term of log π̃ for draws of a flow over bins that was trained on frames centred at the origin.

    Each coordinate is rounded to a bin on its own, so the mean m of a draw's bin centres, whose distribution stands in
    log q, is from N(0, s²) in each dimension: s² = pitch²/(12 N) of a perfect flow. The term is the density of m, with
    s from the mean of |m|² over all draws but those that went astray (beyond `ASTRAY` times the median). Without it the
    ESS of a perfect flow is below 0.001, and with the mean of x in place of m it is not much better. Any s gives right
    averages: where a conformation stands on the grid tells nothing of the molecule. Scaled so that log Z is that of
    `com_log_density`.

    Shape: center (n, 3).
    """
    square = np.square(np.asarray(center, np.float64)).sum(1)
    finite = square[np.isfinite(square)]
    kept = finite[finite <= ASTRAY * np.median(finite)] if len(finite) else finite
    variance = float(kept.mean()) / 3 if len(kept) else 0.0
    if variance <= 0.0:  # no draw, or all in the middle: nothing is known of the spread
        return BinsCenter(np.zeros(len(square)), 0.0)
    return BinsCenter(-0.5 * square / variance - 1.5 * np.log(n_atoms * variance), float(np.sqrt(variance)))
