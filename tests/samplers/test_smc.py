"""SMC as a machine: restart, blocks, failures, counts, wrong input."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from boltzray.samplers import (
    Endpoints,
    LocalPopulation,
    Particles,
    SMCConfig,
    SMCState,
    gather_block,
    generator,
    run_smc,
    smc_steps,
)


@pytest.mark.parametrize("kernel", ["mala", "ula"])
def test_resumed_run_has_the_same_bits(kernel: Any, problems: dict[str, Any]) -> None:
    """Cut after every step; state through JSON and arrays, as a checkpoint would keep it."""
    problem = problems["gaussian"](n_atoms=4, mean=0.5, std=0.3)
    config = SMCConfig(kernel=kernel, step_size=0.02, block_size=32, resampling="multinomial")
    x = problem.propose(150, 0).float()
    whole = run_smc(x, problem.evaluate, config, seed=7)
    assert any(step.resampled for step in whole.steps)

    population, state, steps = LocalPopulation.start(x, problem.evaluate, 32, seed=7), None, []
    while state is None or state.lam < 1.0:
        record, state = next(smc_steps(population, config, 7, state))
        steps.append(record)
        saved = [block.to_arrays() for block in population.blocks]
        arrays = {"log_w": state.log_w.copy(), "eve": state.eve.copy()}
        scalars = {name: value for name, value in state._asdict().items() if name not in arrays}
        population = LocalPopulation([Particles.from_arrays(s) for s in saved], problem.evaluate, seed=7)
        state = SMCState(**{**json.loads(json.dumps(scalars)), **arrays})

    assert steps == whole.steps
    assert torch.equal(torch.cat([block.x for block in population.blocks]), whole.x)
    assert np.array_equal(state.log_w, whole.log_w.numpy())


def test_seed_and_blocks_key_the_noise(problems: dict[str, Any]) -> None:
    problem = problems["gaussian"](n_atoms=1, mean=0.0, std=0.5)
    x = problem.propose(64, 0)
    first, again, other = (run_smc(x, problem.evaluate, SMCConfig(), seed).x for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    draws = {float(generator(*key).random()) for key in np.ndindex(3, 3, 3, 3)}  # every key has its own stream
    assert len(draws) == 81


def test_gather_block_needs_only_the_blocks_it_names() -> None:
    blocks = [Particles(*(torch.arange(4 * b, 4 * b + 4),) * 6) for b in range(5)]
    ancestors = np.array([17, 2, 3, 2, 16])
    assert gather_block({0: blocks[0], 4: blocks[4]}, ancestors, 4).x.tolist() == ancestors.tolist()


def walled(problem: Any) -> Callable[[Tensor], Endpoints]:
    """The problem's target, which cannot be evaluated where x₀ < 0: exactly half of a symmetric target."""

    def evaluate(x: Tensor) -> Endpoints:
        ends = problem.evaluate(x)
        ok = x[:, 0, 0] >= 0
        return ends._replace(
            ok=ok,
            log_p=torch.where(ok, ends.log_p, torch.nan),
            grad_p=torch.where(ok[:, None, None], ends.grad_p, torch.inf),
        )

    return evaluate


@pytest.mark.parametrize("kernel", ["mala", "hmc", "ula"])
def test_failures_cost_weight_and_nothing_else(
    kernel: Any, problems: dict[str, Any], check: Callable[..., None]
) -> None:
    """The answer is the target cut to where it can be evaluated: Z halves, E|x₀| = σ√(2/π)."""
    problem = problems["gaussian"](n_atoms=2, mean=0.0, std=0.5)
    config = SMCConfig(kernel=kernel, step_size={"mala": 0.05, "hmc": 0.2, "ula": 0.02}[kernel])
    z, mean = [], []
    for seed in range(20):
        result = run_smc(problem.propose(1000, seed), walled(problem), config, seed)
        z.append(np.exp(result.log_z))
        mean.append(float(torch.softmax(result.log_w, 0) @ result.x[:, 0, 0]))
        assert result.n_failed > 400
        assert not torch.isnan(result.log_w).any()
        assert (result.x[result.log_w.isfinite(), 0, 0] >= 0).all()
    check("Z", np.mean(z), np.std(z, ddof=1) / 20**0.5, 0.5)
    check("E x₀", np.mean(mean), np.std(mean, ddof=1) / 20**0.5, 0.5 * (2 / np.pi) ** 0.5)


def test_failure_of_everything_is_a_clear_error(problems: dict[str, Any]) -> None:
    problem = problems["gaussian"](n_atoms=1, mean=0.0, std=1.0)

    def broken(x: Tensor) -> Endpoints:
        ends = problem.evaluate(x)
        return ends._replace(ok=torch.zeros_like(ends.ok))

    for schedule in ("linear", "adaptive"):
        with pytest.raises(ValueError, match="all 10 particles have weight zero"):
            run_smc(problem.propose(10, 0), broken, SMCConfig(schedule=schedule), seed=0)


def test_evaluations_are_counted(problems: dict[str, Any]) -> None:
    problem, seen = problems["gaussian"](n_atoms=1, mean=0.0, std=0.5), 0

    def counting(x: Tensor) -> Endpoints:
        nonlocal seen
        seen += len(x)
        assert len(x) <= 16
        return problem.evaluate(x)

    config = SMCConfig(kernel="hmc", schedule="linear", n_steps=5, moves_per_step=2, n_leapfrog=3, block_size=16)
    result = run_smc(problem.propose(50, 0), counting, config, seed=0)
    assert result.n_evaluations == seen == 50 * (1 + 5 * 2 * 3)
    assert [step.lam for step in result.steps] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert result.steps[-1].n_evaluations == seen


def test_max_steps_says_what_to_do(problems: dict[str, Any]) -> None:
    problem = problems["gaussian"](n_atoms=1, mean=0.0, std=0.01)
    with pytest.raises(RuntimeError, match="after max_steps=3; raise max_steps"):
        run_smc(problem.propose(50, 0), problem.evaluate, SMCConfig(max_steps=3), seed=0)


def test_z_estimate_says_what_it_is() -> None:
    assert SMCConfig().z_estimate == "consistent"
    assert SMCConfig(schedule="linear").z_estimate == "consistent"
    assert SMCConfig(schedule="linear", target_acceptance=None).z_estimate == "unbiased"
    assert SMCConfig(schedule="linear", kernel="ula").z_estimate == "unbiased"
    assert SMCConfig(kernel="ula", ula_weights="continuous").z_estimate == "biased"


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        ({"kernel": "nuts"}, "choose one of mala, hmc, ula"),
        ({"resampling": "none"}, "choose one of systematic"),
        ({"cess_target": 1.0}, "0.95 is usual"),
        ({"ess_threshold": 50}, "fraction of n"),
        ({"step_size": 0.0}, "positive"),
        ({"moves_per_step": 0}, "1 or more"),
        ({"target_acceptance": 1.5}, "within 0 and 1"),
        ({"schedule": "linear", "n_steps": 10, "max_steps": 5}, "raise max_steps"),
    ],
)
def test_config_errors_name_the_fix(wrong: dict[str, Any], fix: str) -> None:
    with pytest.raises(ValueError, match=fix):
        SMCConfig(**wrong)


def test_wrong_initial_weights_are_refused(problems: dict[str, Any]) -> None:
    problem = problems["gaussian"](n_atoms=1, mean=0.0, std=1.0)
    with pytest.raises(ValueError, match="give one of each"):
        run_smc(problem.propose(10, 0), problem.evaluate, SMCConfig(), 0, log_w=np.zeros(9))
    with pytest.raises(ValueError, match=r"give \(particles, atoms, 3\)"):
        run_smc(torch.zeros(10, 3), problem.evaluate, SMCConfig(), 0)
