"""SNIS and SMC against closed forms: mean, variance, mode weight, log Z, at 5 standard errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from boltzray.samplers import SMCConfig, run_smc, snis

N_SEEDS = 32
CASES = {
    "gaussian": {"n_atoms": 23, "mean": 0.1, "std": 0.9, "log_z": 2.0},
    "correlated": {},
    "two_modes": {},
}
# h of MALA and ULA, time step of HMC; ULA's bounds its discretisation, which its weights then correct.
STEP = {"mala": 0.05, "hmc": 0.3, "ula": 0.01}


def compare(check: Callable[..., None], runs: list[dict[str, float]], exact: dict[str, float]) -> None:
    """Mean over independent seeds, error from their spread."""
    for name, value in exact.items():
        values = np.array([run[name] for run in runs])
        check(name, values.mean(), values.std(ddof=1) / len(values) ** 0.5 + 1e-12, value)


@pytest.mark.parametrize("name", CASES)
def test_snis(name: str, problems: dict[str, Any], check: Callable[..., None]) -> None:
    problem = problems[name](**CASES[name])
    runs = []
    for seed in range(N_SEEDS):
        x = problem.propose(4000, seed)
        ends = problem.evaluate(x)
        result = snis(x, ends.log_q, ends.log_p, treatment="none")
        z = np.exp(result.log_z - problem.log_z)
        runs.append({**problem.moments(result.x, result.log_w), "Z ratio": z})
        assert result.n_evaluations == result.n == 4000
        assert abs(result.log_z - problem.log_z) < 5 * result.log_z_error
    compare(check, runs, {**problem.exact_moments(), "Z ratio": 1.0})


@pytest.mark.parametrize("schedule", ["adaptive", "linear"])
@pytest.mark.parametrize("kernel", ["mala", "hmc", "ula"])
@pytest.mark.parametrize("name", CASES)
def test_smc(name: str, kernel: Any, schedule: Any, problems: dict[str, Any], check: Callable[..., None]) -> None:
    problem = problems[name](**CASES[name])
    config = SMCConfig(
        kernel=kernel, schedule=schedule, n_steps=12, cess_target=0.9, step_size=STEP[kernel], n_leapfrog=3
    )
    runs = []
    for seed in range(N_SEEDS):
        result = run_smc(problem.propose(1000, seed), problem.evaluate, config, seed)
        z = np.exp(result.log_z - problem.log_z)
        runs.append({**problem.moments(result.x, result.log_w), "Z ratio": z})
        assert result.steps[-1].lam == 1.0
    print(f"{len(result.steps)} steps, ESS {result.ess:.2f}, log Z error {result.log_z_error:.3f}")
    compare(check, runs, {**problem.exact_moments(), "Z ratio": 1.0})


def test_log_z_error_is_the_spread_of_log_z(problems: dict[str, Any]) -> None:
    problem = problems["correlated"]()
    config = SMCConfig(step_size=0.05, ess_threshold=0.8)
    runs = [run_smc(problem.propose(300, seed), problem.evaluate, config, seed) for seed in range(60)]
    spread = np.std([run.log_z for run in runs], ddof=1)
    claimed = np.mean([run.log_z_error for run in runs])
    print(f"spread of log Z {spread:.4f}, mean claimed error {claimed:.4f}")
    assert 0.5 < claimed / spread < 2.0
    assert any(step.resampled for step in runs[0].steps)


def test_the_path_ends_at_the_target(problems: dict[str, Any], check: Callable[..., None]) -> None:
    """Ten linear steps give variance 0.25; a path cut at 1 − 1/K would give 1/(0.1 + 0.9·4) = 0.270."""
    problem = problems["gaussian"](n_atoms=1, mean=0.0, std=0.5)
    config = SMCConfig(schedule="linear", n_steps=10, step_size=0.1)
    runs = []
    for seed in range(N_SEEDS):
        result = run_smc(problem.propose(4000, seed), problem.evaluate, config, seed)
        runs.append({"variance": problem.moments(result.x, result.log_w)["variance"]})
    compare(check, runs, {"variance": 0.25})
    values = [run["variance"] for run in runs]
    assert np.mean(values) + 5 * np.std(values, ddof=1) / N_SEEDS**0.5 < 1 / 3.7


@pytest.mark.parametrize(("weights", "unbiased"), [("exact", True), ("continuous", False)])
def test_exact_ula_is_unbiased_at_a_large_step(weights: Any, unbiased: bool, problems: dict[str, Any]) -> None:
    """h = 0.2 where σ² / h of the target is 1.25; 0.02 would be a careful choice."""
    problem = problems["gaussian"](n_atoms=1, mean=0.5, std=0.5)
    config = SMCConfig(kernel="ula", schedule="linear", n_steps=8, step_size=0.2, ula_weights=weights, moves_per_step=2)
    z = np.array(
        [np.exp(run_smc(problem.propose(64, seed), problem.evaluate, config, seed).log_z) for seed in range(200)]
    )
    error = z.std(ddof=1) / len(z) ** 0.5
    print(f"{weights}: mean Ẑ {z.mean():.4f} ± {error:.4f} over 200 seeds, exact 1")
    assert (abs(z.mean() - 1) < 5 * error) == unbiased
    assert config.z_estimate == ("unbiased" if unbiased else "biased")


def test_initial_weights_count(problems: dict[str, Any], check: Callable[..., None]) -> None:
    """Proposals drawn from another density than log_q, with their log-weights."""
    problem = problems["gaussian"](n_atoms=1, mean=0.3, std=0.6, log_z=1.0)
    wide = problems["gaussian"](n_atoms=1, mean=0.0, std=1.0, proposal_std=1.3)
    runs = []
    for seed in range(N_SEEDS):
        x = wide.propose(1000, seed)
        log_w = problem.evaluate(x).log_q - wide.evaluate(x).log_q
        result = run_smc(x, problem.evaluate, SMCConfig(step_size=0.1), seed, log_w=log_w)
        z = np.exp(result.log_z - problem.log_z)
        runs.append({**problem.moments(result.x, result.log_w), "Z ratio": z})
    compare(check, runs, {**problem.exact_moments(), "Z ratio": 1.0})


def test_a_steep_target_is_reached_from_afar(problems: dict[str, Any], check: Callable[..., None]) -> None:
    """log π̃ − log q down to −10⁸: variance 10⁻⁷ from a proposal of variance 1."""
    problem = problems["gaussian"](n_atoms=2, mean=0.0, std=10**-3.5)
    config = SMCConfig(step_size=0.5, moves_per_step=2)
    runs = []
    for seed in range(8):
        result = run_smc(problem.propose(500, seed), problem.evaluate, config, seed)
        runs.append({"variance · 10⁷": 1e7 * problem.moments(result.x, result.log_w)["variance"]})
        runs[-1]["log Z"] = result.log_z
    first = [step.lam for step in result.steps[:2]]
    print(f"{len(result.steps)} steps, first λ {first}, roots {result.n_roots}")
    assert first[0] < 1e-6
    compare(check, runs, {"variance · 10⁷": 1.0, "log Z": 0.0})


def test_float32_positions_stay_float32(problems: dict[str, Any]) -> None:
    problem = problems["gaussian"](n_atoms=2, mean=0.0, std=0.7)
    result = run_smc(problem.propose(100, 0).float(), problem.evaluate, SMCConfig(step_size=0.1), 0)
    assert result.x.dtype == torch.float32
    assert result.log_w.dtype == result.log_q.dtype == torch.float64
