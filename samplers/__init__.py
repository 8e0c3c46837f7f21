"""Statistics: weights, resampling, annealing paths, kernels, SNIS, SMC; densities are callables."""

from .com import bins_com_log_density, com_log_density
from .config import HMC, SMCConfig
from .importance_weights import conditional_ess, ess, log_mean_exp, log_z_error, normalised, psis, treat
from .population import (
    LocalPopulation,
    Move,
    MoveInfo,
    Population,
    gather_block,
    merge_infos,
    move_block,
)
from .resampling import multinomial, resample, residual, stratified, systematic
from .rng import Stage, generator
from .smc import SMCResult, SMCState, SMCStep, run_smc, smc_step, smc_steps
from .snis import SNISResult, snis
from .start import Start, choose_start
from .types import Endpoints, Evaluate, Particles, concatenate, evaluate_particles
from .weighted_average import Average, weighted_average, weighted_log_ratio

__all__ = [
    "HMC",
    "Average",
    "Endpoints",
    "Evaluate",
    "LocalPopulation",
    "Move",
    "MoveInfo",
    "Particles",
    "Population",
    "SMCConfig",
    "SMCResult",
    "SMCState",
    "SMCStep",
    "SNISResult",
    "Stage",
    "Start",
    "bins_com_log_density",
    "choose_start",
    "com_log_density",
    "concatenate",
    "conditional_ess",
    "ess",
    "evaluate_particles",
    "gather_block",
    "generator",
    "log_mean_exp",
    "log_z_error",
    "merge_infos",
    "move_block",
    "multinomial",
    "normalised",
    "psis",
    "resample",
    "residual",
    "run_smc",
    "smc_step",
    "smc_steps",
    "snis",
    "stratified",
    "systematic",
    "treat",
    "weighted_average",
    "weighted_log_ratio",
]
