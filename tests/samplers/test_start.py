"""SMC from the best of many proposals: unbiased as from all of them, with more ancestors and fewer evaluations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from boltzray.samplers import (
    Endpoints,
    Evaluate,
    LocalPopulation,
    SMCConfig,
    SMCState,
    SMCStep,
    choose_start,
    concatenate,
    log_z_error,
    smc_steps,
)
from boltzray.samplers.start import FURTHEST, SURPLUS

N, DRAWS, N_SEEDS = 200, 2000, 32
CONFIG = SMCConfig(step_size=0.05, cess_target=0.9)


class Run(NamedTuple):
    """Particles at the end, their weights and state, and the last step's record."""

    x: Tensor
    log_w: Tensor
    state: SMCState
    last: SMCStep


def anneal(problem: Any, draws: int, seed: int, evaluate: Evaluate | None = None) -> Run:
    """Run SMC with N of `draws` proposals. `evaluate`: of the particles, where that differs from the proposals'."""
    evaluate = evaluate or problem.evaluate
    x = problem.propose(draws, seed)
    ends = problem.evaluate(x)
    log_q, log_ratio = ends.log_q.numpy(), (ends.log_p - ends.log_q).numpy()
    start = choose_start(log_ratio, N, CONFIG, seed)
    population = LocalPopulation.start(x[torch.from_numpy(start.rows)], evaluate, CONFIG.block_size, seed)
    state = start.state(log_ratio, log_q, *population.scalars(), CONFIG)
    *_, (last, state) = smc_steps(population, CONFIG, seed, state)
    return Run(concatenate(population.blocks).x, torch.from_numpy(state.log_w), state, last)


def tilted(ends: Endpoints, x: Tensor) -> Endpoints:
    """Endpoints with a log q that is off by half of x₀."""
    gradient = ends.grad_q.clone()
    gradient[:, 0, 0] += 0.5
    return ends._replace(log_q=ends.log_q + 0.5 * x[:, 0, 0], grad_q=gradient)


@pytest.mark.parametrize("off", [False, True])
@pytest.mark.parametrize("name", ["correlated", "two_modes"])
def test_moments_and_log_z(name: str, off: bool, problems: dict[str, Any], check: Callable[..., None]) -> None:
    """`off`: proposals are not from the density that the path begins with; the first weights make up for it."""
    problem = problems[name]()
    evaluate = (lambda x: tilted(problem.evaluate(x), x)) if off else None
    runs = [anneal(problem, DRAWS, seed, evaluate) for seed in range(N_SEEDS)]
    found = [{**problem.moments(run.x, run.log_w), "Z ratio": np.exp(run.last.log_z - problem.log_z)} for run in runs]
    for key, exact in {**problem.exact_moments(), "Z ratio": 1.0}.items():
        values = np.array([values[key] for values in found])
        check(key, values.mean(), values.std(ddof=1) / N_SEEDS**0.5, exact)
    assert all(run.state.lam == 1.0 for run in runs)
    errors = [log_z_error(run.state.log_w, run.state.eve, run.state.n_proposals) for run in runs]
    assert 0.5 < np.mean(errors) / np.std([run.last.log_z for run in runs], ddof=1) < 2.0


def test_more_ancestors_in_fewer_steps(problems: dict[str, Any]) -> None:
    problem = problems["gaussian"](n_atoms=8, mean=0.5, std=0.6)
    few, many = ([anneal(problem, draws, seed).last for seed in range(4)] for draws in (N, DRAWS))
    assert np.mean([last.n_roots for last in many]) > 1.2 * np.mean([last.n_roots for last in few])
    assert max(last.step for last in many) < min(last.step for last in few)


def test_where_the_path_starts() -> None:
    log_ratio = np.random.default_rng(0).normal(0.0, 3.0, DRAWS)
    log_ratio[::7] = -np.inf
    start = choose_start(log_ratio, N, CONFIG, 0)
    weights = np.exp(start.lam * log_ratio)
    effective = weights.sum() ** 2 / np.square(weights).sum()
    assert effective == pytest.approx(SURPLUS * N, rel=0.01)
    assert np.isfinite(log_ratio[start.rows]).all()
    assert (np.diff(start.rows) >= 0).all()  # files are read once
    assert len(np.unique(start.rows)) > 0.8 * N
    assert start.log_z == pytest.approx(np.log(weights.mean()))
    good = choose_start(np.zeros(DRAWS), N, CONFIG, 0)
    assert good.lam == FURTHEST  # particles are moved at least once


@pytest.mark.parametrize(("draws", "config"), [(int(SURPLUS * N), CONFIG), (DRAWS, SMCConfig(schedule="linear"))])
def test_few_draws_and_fixed_schedules_start_at_zero(draws: int, config: SMCConfig) -> None:
    start = choose_start(np.random.default_rng(0).normal(0.0, 3.0, draws), N, config, 0)
    assert start.lam == start.log_z == 0.0
    assert np.array_equal(start.rows, np.arange(N))
