"""Sequential Monte Carlo along γ_λ ∝ q^(1−λ) π̃^λ: reweight, resample, move, until λ is 1.

The algorithm is written once, over scalars; coordinates belong to the `Population`, here or on Ray actors.
Source: Del Moral, Doucet & Jasra 2006; adaptive path: Zhou, Johansen & Aston 2016.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .config import SMCConfig, ZEstimate
from .importance_weights import checked_log_weights, conditional_ess, ess, log_mean_exp, log_z_error
from .kernels import adapted_step_size
from .path import adaptive_lambda, linear_lambda
from .population import LocalPopulation, Move, Population
from .resampling import resample
from .rng import Stage, generator
from .types import Evaluate, FloatArray, IntArray, concatenate


class SMCState(NamedTuple):
    """The driver's half of a checkpoint, after `step` steps; the population's half are its blocks.

    `log_z`: log Ẑ up to the last resampling; `log_w` (n,): weights since; `eve` (n,): Eve indices, the proposal from
    which each descends (Lee & Whiteley 2018; also "Eve variables"; `roots` in files), of `n_proposals`. Scalars are
    JSON-able.
    """

    step: int
    lam: float
    step_size: float
    log_z: float
    n_evaluations: int
    log_w: FloatArray
    eve: IntArray
    n_proposals: int

    @classmethod
    def start(cls, n: int, config: SMCConfig, log_w: npt.ArrayLike | Tensor | None = None) -> "SMCState":
        """State before the first step; `log_w` are weights of the proposals, log q − log (density drawn from)."""
        weights = np.zeros(n) if log_w is None else checked_log_weights(log_w)
        if len(weights) != n:
            raise ValueError(f"{len(weights)} initial log-weights for {n} particles; give one of each")
        return cls(0, 0.0, config.step_size, 0.0, n, weights, np.arange(n), n)


class SMCStep(NamedTuple):
    """Record of one step. `ess` and `cess` (fractions of n) after reweighting to `lam`, before resampling.

    `log_z` and `n_evaluations` are totals so far, `n_failed` counts this step's failed proposals, `n_roots`
    the distinct Eve indices among particles with weight. The names are keys of files and metrics.
    """

    step: int
    lam: float
    ess: float
    cess: float
    resampled: bool
    acceptance: float
    step_size: float
    n_roots: int
    n_failed: int
    n_evaluations: int
    log_z: float


class SMCResult(NamedTuple):
    """Weighted particles at λ = 1.

    Shape: x (n, N, 3); log_w, log_q, log_p (n,) float64 on the CPU, log_w not normalised. `ess` is a fraction of
    n. `log_z_error` is estimated from the families of equal Eve index; near 1 it means that few are left.
    """

    x: Tensor
    log_w: Tensor
    log_q: Tensor
    log_p: Tensor
    ess: float
    log_z: float
    log_z_error: float
    z_estimate: ZEstimate
    n_roots: int
    n_failed: int
    n_evaluations: int
    steps: list[SMCStep]


def count_eve(log_w: FloatArray, eve: IntArray) -> int:
    """Number of distinct Eve indices among the particles with weight."""
    seen = np.zeros(int(eve.max()) + 1, bool)
    seen[eve[np.isfinite(log_w)]] = True
    return int(seen.sum())


def smc_step(population: Population, config: SMCConfig, seed: int, state: SMCState) -> tuple[SMCStep, SMCState]:
    """One step: next λ, reweight, resample if the ESS is low, move at the new λ, adapt the step size."""
    step, n = state.step + 1, len(state.log_w)
    lam, cess, log_w = _reweighted(population, config, state)
    eve, log_z = state.eve, state.log_z
    size = ess(log_w)
    resampled = size < config.ess_threshold
    if resampled:
        log_z += log_mean_exp(log_w)
        ancestors = resample(log_w, n, generator(seed, Stage.RESAMPLE, step), config.resampling)
        population.resample(ancestors)
        log_w, eve = np.zeros(n), eve[ancestors]

    exact = config.ula_weights == "exact"
    order = Move(step, lam, config.kernel, state.step_size, config.moves_per_step, config.n_leapfrog, exact)
    info = population.move(order)
    log_w = log_w + info.log_w
    acceptance = info.acceptance / info.n_proposals
    step_size = state.step_size
    if config.kernel != "ula" and config.target_acceptance is not None:
        step_size = adapted_step_size(step_size, acceptance, config.target_acceptance)

    n_evaluations = state.n_evaluations + info.n_evaluations
    after = SMCState(step, lam, step_size, log_z, n_evaluations, log_w, eve, state.n_proposals)
    record = SMCStep(
        step=step,
        lam=lam,
        ess=size,
        cess=cess,
        resampled=resampled,
        acceptance=acceptance,
        step_size=state.step_size,
        n_roots=count_eve(log_w, eve),
        n_failed=info.n_failed,
        n_evaluations=after.n_evaluations,
        log_z=log_z + log_mean_exp(log_w),
    )
    return record, after


def _reweighted(population: Population, config: SMCConfig, state: SMCState) -> tuple[float, float, FloatArray]:
    """The next λ, the conditional ESS of going there, and the log-weights there."""
    log_q, log_p = population.scalars()
    increment = log_p - log_q
    if config.schedule == "linear":
        lam = linear_lambda(state.step + 1, config.n_steps)
    else:
        lam = adaptive_lambda(state.lam, increment, state.log_w, config.cess_target)
    increment *= lam - state.lam
    return lam, conditional_ess(state.log_w, increment), state.log_w + increment


def smc_steps(
    population: Population, config: SMCConfig, seed: int, state: SMCState | None = None
) -> Iterator[tuple[SMCStep, SMCState]]:
    """Steps until λ = 1. To continue after a yielded state, give it back with the population as it was then.

    Raises: ValueError if all weights are zero; RuntimeError if λ does not reach 1 within `max_steps`.
    """
    state = state or SMCState.start(len(population.scalars()[0]), config)
    while state.lam < 1.0:
        if state.step >= config.max_steps:
            raise RuntimeError(
                f"λ is {state.lam:.3g} after max_steps={config.max_steps}; raise max_steps, lower "
                "cess_target, or train the proposal for longer"
            )
        record, state = smc_step(population, config, seed, state)
        yield record, state


def run_smc(
    x: Tensor,
    evaluate: Evaluate,
    config: SMCConfig,
    seed: int,
    log_w: npt.ArrayLike | Tensor | None = None,
) -> SMCResult:
    """Anneal proposals x (n, N, 3) ~ q to the target in this process.

    `log_w` (n,): initial log-weights if x was drawn from another density than log_q, log q − log (drawn
    from).
    Raises: ValueError if every evaluation failed; RuntimeError if λ does not reach 1 within `max_steps`.
    """
    population = LocalPopulation.start(x, evaluate, config.block_size, seed)
    n_failed = int(np.isneginf(population.scalars()[1]).sum())
    state, steps = SMCState.start(len(x), config, log_w), []
    for record, after in smc_steps(population, config, seed, state):
        steps.append(record)
        state = after
    log_q, log_p = population.scalars()
    return SMCResult(
        x=concatenate(population.blocks).x,
        log_w=torch.from_numpy(state.log_w),
        log_q=torch.from_numpy(log_q),
        log_p=torch.from_numpy(log_p),
        ess=ess(state.log_w),
        log_z=steps[-1].log_z,
        log_z_error=log_z_error(state.log_w, state.eve),
        z_estimate=config.z_estimate,
        n_roots=steps[-1].n_roots,
        n_failed=n_failed + sum(step.n_failed for step in steps),
        n_evaluations=state.n_evaluations,
        steps=steps,
    )
