"""Distribution of the centre of mass, which the energy leaves open and the target must specify."""

from typing import Literal

from torch import Tensor

CenterOfMass = Literal["gaussian", "radial"]


def com_log_density(
    x: Tensor, mode: CenterOfMass = "gaussian", temperature_ratio: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Centre-of-mass term of log π̃ (up to a constant) and its gradient.

    `gaussian`: −N|x̄|²/(2·temperature_ratio), the distribution with which the flow is trained: it costs no ESS.
    `radial`: the same + log|x̄|², for comparison with published tables only: it costs 40 % of the ESS and has
    no gradient at x̄ = 0.
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
    elif mode != "gaussian":
        raise ValueError(f"unknown centre-of-mass distribution {mode!r}; choose gaussian or radial")
    return log_density, gradient[:, None, :].expand(x.shape)
