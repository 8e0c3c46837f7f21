"""Dormand and Prince's method with a step size of each sample, and an integral along the path.

Every sample has its own error norm, step size and time, so its path does not depend on the batch. torchode does this
too; it needs a package that is no longer maintained (torchtyping), and has no quadrature along the path, without which
the divergence, that costs fifty times a velocity, is computed at all stages of all steps.

Shapes: B samples, N atoms. Source: Dormand and Prince 1980; Hairer, Nørsett and Wanner, Solving Ordinary Differential
Equations I, section II.6 (dense output) and II.4 (control of steps).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]  # times (A,), positions (A, N, 3), rows (A,) → (A, N, 3)
Integrand = Callable[[Tensor, Tensor, Tensor], Tensor]  # the same → (A,)

NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
DENSE = (
    -12715105075 / 11282082432,
    0.0,
    87487479700 / 32700410799,
    -10690763975 / 1880347072,
    701980252875 / 199316789632,
    -1453857185 / 822651844,
    69997945 / 29380423,
)
GAUSS = 0.5 - 3**-0.5 / 2, 0.5 + 3**-0.5 / 2  # of equal weight; of fourth order, as the path within a step is
SHORTEST = 1e-6  # of a step
LONGEST = 1 / 5  # for the integral's sake, whose error is not estimated: some 1e-3 nats of a small trained flow
GROWTH, SHRINKAGE, SAFETY = 5.0, 0.2, 0.9
MOST_STEPS = 2000  # of a sample, taken or refused; flows that have learned something need 10 to 100


class Path(NamedTuple):
    """Positions at the end (B, N, 3), the integral (B,), and the number of steps taken or refused of each (B,).

    Rows whose steps would have to be shorter than `SHORTEST`, or more than `MOST_STEPS`, are NaN.
    """

    x: Tensor
    integral: Tensor
    steps: Tensor


def integrate(
    velocity: Velocity, integrand: Integrand, x: Tensor, freedom: Tensor, tolerance: float, *, backwards: bool = False
) -> Path:
    """Follow dx/dt = velocity from t = 0 to 1, or back, and integrate `integrand` dt from 0 to 1 along the way.

    `freedom` (B,): coordinates of each row that count; the others are zero. `tolerance`: of the root mean square, over
    them, of a step's error, in units of 1 + |x|. The integrand is taken at Gauss' points of each step.
    """
    sign = -1.0 if backwards else 1.0
    rows = torch.arange(len(x), device=x.device)
    done, h = x.new_zeros(len(x)), x.new_full((len(x),), LONGEST)  # the part of the way behind each, the next step
    steps, integral = torch.zeros_like(rows), x.new_zeros(len(x))

    def clock(part: Tensor) -> Tensor:
        return 1.0 - part if backwards else part

    x, slope = x.clone(), sign * velocity(clock(done), x, rows)
    while len(rows):
        h[rows] = torch.minimum(h[rows], 1.0 - done[rows])
        y, length, begin = x[rows], h[rows][:, None, None], done[rows]
        k = [slope[rows]]
        for node, weights in zip(NODES[1:], STAGES, strict=True):
            z = y + length * _combined(weights, k)
            k.append(sign * velocity(clock(begin + node * h[rows]), z, rows))
        error = length * _combined(ERROR, k) / (tolerance * (1.0 + torch.maximum(y.abs(), z.abs())))
        norm = (error.square().sum((1, 2)) / freedom[rows]).sqrt()
        good = norm <= 1.0
        steps[rows] += 1
        taken = rows[good]
        if len(taken):
            k_taken = [stage[good] for stage in k]
            for part in GAUSS:
                at = _between(part, y[good], z[good], length[good], k_taken)
                value = integrand(clock(begin[good] + part * h[taken]), at, taken)
                integral[taken] += h[taken] * value / len(GAUSS)
            x[taken], slope[taken] = z[good], k_taken[-1]
            done[taken] = torch.where(h[taken] >= 1.0 - done[taken], 1.0, done[taken] + h[taken])
        change = (SAFETY * norm.clamp(min=1e-10).pow(-0.2)).nan_to_num(SHRINKAGE).clamp(SHRINKAGE, GROWTH)
        h[rows] = (h[rows] * torch.where(good, change, change.clamp(max=1.0))).clamp(max=LONGEST)
        lost = rows[((h[rows] < SHORTEST) & ~good) | ((steps[rows] >= MOST_STEPS) & (done[rows] < 1.0))]
        x[lost], integral[lost], done[lost] = torch.nan, torch.nan, 1.0
        rows = rows[done[rows] < 1.0]
    return Path(x, integral, steps)


def _combined(weights: tuple[float, ...], k: list[Tensor]) -> Tensor:
    """Σ weight · stage, over the weights there are."""
    total = weights[0] * k[0]
    for weight, stage in zip(weights[1:], k[1:], strict=False):
        if weight:
            total = total + weight * stage
    return total


def _between(part: float, y: Tensor, z: Tensor, length: Tensor, k: list[Tensor]) -> Tensor:
    """The path within a step from y to z, of fourth order."""
    rise = z - y
    bend = length * k[0] - rise
    back = rise - length * k[-1] - bend
    rest = 1.0 - part
    return y + part * (rise + rest * (bend + part * (back + rest * length * _combined(DENSE, k))))
