"""Start of SMC: proposals are many and cheap, so the first stretch of the path is done by weighting all of them."""

from typing import NamedTuple

import numpy as np

from .config import SMCConfig
from .importance_weights import log_mean_exp
from .path import adaptive_lambda
from .resampling import resample
from .rng import Stage, generator
from .smc import SMCState
from .types import FloatArray, IntArray

SURPLUS = 2.0  # effective proposals for each particle: fewer, and particles are copies of each other from the start
FURTHEST = 0.9  # the last step is left, or particles would never be moved


class Start(NamedTuple):
    """The proposals (n,) that become particles, drawn by their weights at λ; `log_z` of getting there."""

    rows: IntArray
    lam: float
    log_z: float

    def state(
        self, log_ratio: FloatArray, log_q: FloatArray, now_q: FloatArray, now_p: FloatArray, config: SMCConfig
    ) -> SMCState:
        """SMC's first state, with weights for what a second evaluation of the same conformations changes.

        log q of a sampling pass and of a forward pass differ in the last digits. `log_ratio`, `log_q`: of all
        proposals, as they were drawn; `now_q`, `now_p` (n,): of the particles.
        """
        log_w = now_q - log_q[self.rows]
        log_w[~np.isfinite(log_ratio[self.rows])] = -np.inf
        if self.lam > 0.0:
            log_w = log_w + self.lam * (now_p - now_q - log_ratio[self.rows])
        spent = len(log_ratio) + len(self.rows)  # with a gradient, once more
        return SMCState(0, self.lam, config.step_size, self.log_z, spent, log_w, self.rows, len(log_ratio))


def choose_start(log_ratio: FloatArray, n: int, config: SMCConfig, seed: int) -> Start:
    """Choose `n` of N proposals, and the λ at which SMC starts with them.

    λ is the largest at which the weights (π̃/q)^λ of all N leave `SURPLUS` · n effective ones; resampling by these
    weights gives particles of γ_λ, nearly all of them distinct. What they would have lost on the way there, ancestors
    and energies, is saved. With N below `SURPLUS` · n, or a path of equal steps, these are the first n, at λ = 0.

    Shape: log_ratio (N,), log π̃ − log q of proposals, −inf of failed ones. The particles' Eve indices are their rows.
    Source: a first step of sequential importance resampling with more proposals than particles (Chopin &
    Papaspiliopoulos 2020, chapter 17).
    """
    wanted = SURPLUS * n / max(np.isfinite(log_ratio).sum(), 1)
    if config.schedule == "linear" or wanted >= 1.0:
        return Start(np.arange(n), 0.0, 0.0)
    lam = min(adaptive_lambda(0.0, log_ratio, np.zeros(len(log_ratio)), wanted), FURTHEST)
    log_w = lam * log_ratio
    rows = resample(log_w, n, generator(seed, Stage.RESAMPLE, 0), config.resampling)
    return Start(rows, lam, log_mean_exp(log_w))
