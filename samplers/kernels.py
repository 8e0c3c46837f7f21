"""Markov kernels on the path: (particles, evaluate, λ, step_size, generator) -> (particles, info).

All three are leapfrog steps of Hamiltonian dynamics: MALA is one step with fresh momenta, ULA is MALA that
accepts everything and, if exact, carries the Metropolis ratio as a weight.
Step sizes: h for ULA and MALA, x' = x + h ∇log γ + √(2h) ξ; the leapfrog time step for HMC.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .types import Evaluate, Particles, evaluate_particles


class KernelInfo(NamedTuple):
    """Statistics of one move.

    `acceptance`: probability of acceptance; `log_w`: increment of the log-weight; `failed`: the proposal
    could not be evaluated. Shape: (B,) each, float64, float64, bool. `n_evaluations`: energies computed.
    """

    acceptance: Tensor
    log_w: Tensor
    failed: Tensor
    n_evaluations: int


def _leapfrog(
    start: Particles,
    evaluate: Evaluate,
    lam: float,
    time_step: float,
    n_steps: int,
    generator: np.random.Generator,
) -> tuple[Particles, Tensor, Tensor]:
    """End of a trajectory with fresh momenta, log γ(x')p(m') − log γ(x)p(m) (−inf if failed), and failures (B,).

    For one step this is log γ(x')M(x|x') − log γ(x)M(x'|x), M the Langevin proposal: no cancellation at small
    steps.
    Source: Neal 2011.
    """
    momentum = torch.from_numpy(generator.standard_normal(tuple(start.x.shape))).to(start.x.device)
    kinetic = 0.5 * momentum.square().flatten(1).sum(1)
    end, failed = start, torch.zeros_like(start.ok)
    for _ in range(n_steps):
        momentum = momentum + 0.5 * time_step * end.grad_gamma(lam)
        end = evaluate_particles((end.x + time_step * momentum).to(start.x.dtype), evaluate)
        momentum = momentum + 0.5 * time_step * end.grad_gamma(lam)
        failed = failed | ~end.ok
    change = end.log_gamma(lam) - start.log_gamma(lam) + kinetic - 0.5 * momentum.square().flatten(1).sum(1)
    usable = start.ok & ~failed & ~change.isnan()
    return end, torch.where(usable, change, -torch.inf), failed


def _metropolis(
    start: Particles,
    evaluate: Evaluate,
    lam: float,
    time_step: float,
    n_steps: int,
    generator: np.random.Generator,
) -> tuple[Particles, KernelInfo]:
    """Accept or reject a trajectory; one that could not be evaluated has ratio zero and is rejected."""
    end, log_ratio, failed = _leapfrog(start, evaluate, lam, time_step, n_steps, generator)
    log_uniform = torch.from_numpy(np.log1p(-generator.random(len(log_ratio)))).to(log_ratio.device)
    info = KernelInfo(
        acceptance=log_ratio.clamp(max=0.0).exp(),
        log_w=torch.zeros_like(log_ratio),
        failed=failed,
        n_evaluations=n_steps * len(log_ratio),
    )
    return end.where(log_uniform < log_ratio, start), info


def mala(
    particles: Particles, evaluate: Evaluate, lam: float, step_size: float, generator: np.random.Generator
) -> tuple[Particles, KernelInfo]:
    """Metropolis-adjusted Langevin; leaves γ_λ invariant. Source: Roberts & Tweedie 1996."""
    return _metropolis(particles, evaluate, lam, math.sqrt(2.0 * step_size), 1, generator)


def hmc(
    particles: Particles,
    evaluate: Evaluate,
    lam: float,
    step_size: float,
    generator: np.random.Generator,
    *,
    n_leapfrog: int,
) -> tuple[Particles, KernelInfo]:
    """Hamiltonian Monte Carlo, `n_leapfrog` evaluations a move; leaves γ_λ invariant. Source: Neal 2011."""
    return _metropolis(particles, evaluate, lam, step_size, n_leapfrog, generator)


def ula(
    particles: Particles,
    evaluate: Evaluate,
    lam: float,
    step_size: float,
    generator: np.random.Generator,
    *,
    exact: bool,
) -> tuple[Particles, KernelInfo]:
    """Unadjusted Langevin; does not leave γ_λ invariant.

    `exact` multiplies the weight by γ(x')M(x|x') / γ(x)M(x'|x): right at any step size (the reversed move as
    backward kernel: Del Moral, Doucet & Jasra 2006). Otherwise the weight is left alone, which is the
    continuous-time Jarzynski limit of SBG and right only for small steps.
    Where γ cannot be evaluated, hence is zero, the particle stays and its weight with it. That is exact:
    staying has the same probability forward and backward, whereas killing it would lose the mass that M sends
    back there.
    """
    end, log_ratio, failed = _leapfrog(particles, evaluate, lam, math.sqrt(2.0 * step_size), 1, generator)
    valid = particles.ok & ~failed
    info = KernelInfo(
        acceptance=valid.double(),
        log_w=torch.where(valid & exact, log_ratio, 0.0),
        failed=failed,
        n_evaluations=len(log_ratio),
    )
    return end.where(valid, particles), info


def adapted_step_size(step_size: float, acceptance: float, target: float) -> float:
    """Next step size, by the whole population's acceptance: at most 3-fold down and 2.3-fold up at 0.574."""
    return step_size * math.exp(2.0 * (acceptance - target))
