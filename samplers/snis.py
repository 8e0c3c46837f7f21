"""Self-normalised importance sampling: weights of proposals, and whether to believe them."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .importance_weights import (
    Treatment,
    checked_log_weights,
    ess,
    log_mean_exp,
    log_z_error,
    normalised,
    psis,
    to_float64,
    treat,
)


class SNISResult(NamedTuple):
    """Weighted proposals. Everything but `log_w` describes all weights, before the treatment.

    Shape: x (n, N, 3), or None where positions are kept elsewhere; log_w (n,) float64 on the CPU, after treatment,
    not normalised.
    `ess` is Kish's, as a fraction of n. `log_z` = log mean w with standard error. `k_hat` above `reliable_k_hat(n)`
    means that the estimate is not to be trusted; None below 21 weights above zero, which say nothing of it.
    """

    x: Tensor | None
    log_w: Tensor
    ess: float
    log_z: float
    log_z_error: float
    k_hat: float | None
    max_weight_share: float
    n: int
    n_failed: int
    n_evaluations: int


def snis(
    x: Tensor | npt.NDArray[Any] | None,
    log_q: Tensor | npt.NDArray[Any],
    log_p: Tensor | npt.NDArray[Any],
    treatment: Treatment = "psis",
) -> SNISResult:
    """Weight proposals x ~ q by π̃/q.

    A conformation whose log_p or log_q is not finite has weight zero and is counted in `n_failed`.

    Shape: x (n, N, 3) or None; log_q, log_p (n,).
    Raises: ValueError if the lengths differ or every weight is zero.
    """
    q, p = to_float64(log_q), to_float64(log_p)
    n = q.size if x is None else len(x)
    if not q.shape == p.shape == (n,):
        raise ValueError(f"x has {n} conformations, log_q {q.shape}, log_p {p.shape}; give one of each")
    finite = np.isfinite(q) & np.isfinite(p)
    raw = np.full(len(q), -np.inf)
    raw[finite] = p[finite] - q[finite]
    checked_log_weights(raw)
    smoothed, k_hat = psis(raw)
    return SNISResult(
        x=None if x is None else torch.as_tensor(x),
        log_w=torch.from_numpy(smoothed if treatment == "psis" else treat(raw, treatment)),
        ess=ess(raw),
        log_z=log_mean_exp(raw),
        log_z_error=log_z_error(raw),
        k_hat=k_hat,
        max_weight_share=float(normalised(raw).max()),
        n=len(raw),
        n_failed=int((~finite).sum()),
        n_evaluations=len(raw),
    )
