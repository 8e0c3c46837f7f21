"""Kernels: MALA and HMC leave γ_λ invariant, whatever fails is rejected, ULA carries its weight."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from boltzray.samplers import Endpoints, Stage, evaluate_particles, generator
from boltzray.samplers.kernels import adapted_step_size, hmc, mala, ula

N = 40_000


@pytest.mark.parametrize(("kernel", "step"), [(mala, 0.15), (partial(hmc, n_leapfrog=3), 0.6)])
def test_invariance(kernel: Any, step: float, problems: dict[str, Any], check: Callable[..., None]) -> None:
    """Exact samples of a two-mode target stay so after moves that reject often."""
    problem = problems["two_modes"]()
    particles = evaluate_particles(problem.sample_target(N, 5), problem.evaluate)
    before = particles.x
    accepted, n_moves = 0.0, 15
    for move in range(n_moves):
        stream = generator(0, Stage.MOVE, move)
        particles, info = kernel(particles, problem.evaluate, 1.0, step, stream)
        accepted += float(info.acceptance.mean()) / n_moves
    print(f"acceptance {accepted:.2f}, moved {float((particles.x != before).double().mean()):.3f}")
    assert 0.3 < accepted < 0.9
    flat, n = particles.x.flatten(1), float(N)
    exact = {"|x₀|": 2.0, "x₁²": 0.16, "x₁⁴": 3 * 0.16**2, "right": 0.7}
    values = {
        "|x₀|": flat[:, 0].abs(),
        "x₁²": flat[:, 1] ** 2,
        "x₁⁴": flat[:, 1] ** 4,
        "right": (flat[:, 0] > 0).double(),
    }
    for name, value in values.items():
        check(name, float(value.mean()), float(value.std()) / n**0.5, exact[name])


@pytest.mark.parametrize(("kernel", "step"), [(mala, 0.3), (partial(hmc, n_leapfrog=3), 0.5)])
def test_middle_of_the_path(kernel: Any, step: float, problems: dict[str, Any], check: Callable[..., None]) -> None:
    """Between N(0, 1) and N(0, 0.25), γ at λ = 0.3 has variance 1/(0.7 + 0.3·4), reached from elsewhere."""
    problem = problems["gaussian"](n_atoms=1, mean=0.0, std=0.5)
    particles = evaluate_particles(problem.propose(N, 1), problem.evaluate)
    for move in range(60):
        particles, _ = kernel(particles, problem.evaluate, 0.3, step, generator(0, Stage.MOVE, move))
    square = particles.x.square()
    check("variance", float(square.mean()), float(square.std()) / (3 * N) ** 0.5, 1 / 1.9)


def half_space(x: Tensor) -> Endpoints:
    """A standard normal both ways; nothing can be evaluated where x₀ < 0, and the answer there is rubbish."""
    ok = x[:, 0, 0] >= 0
    log_p = torch.where(ok, -0.5 * x.double().square().sum((1, 2)), torch.nan)
    gradient = torch.where(ok[:, None, None], -x, torch.nan)
    return Endpoints(log_p.clone(), log_p, gradient, gradient, ok)


@pytest.mark.parametrize("kernel", [mala, partial(hmc, n_leapfrog=3), partial(ula, exact=True)])
def test_failed_proposals_are_rejected(kernel: Any, check: Callable[..., None]) -> None:
    x = torch.randn(4000, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    start = evaluate_particles(x, half_space)
    assert not torch.isnan(torch.cat([part.double().flatten() for part in start])).any()
    end, info = kernel(start, half_space, 0.5, 0.5, generator(0, Stage.MOVE))
    assert (end.x[:, 0, 0] >= 0)[start.ok].all()
    assert torch.equal(end.x[~start.ok], start.x[~start.ok])  # a failed particle has no density to move by
    assert info.failed.any()
    assert (info.acceptance[start.ok & info.failed] == 0).all()
    assert not torch.isnan(info.log_w).any()
    assert info.n_evaluations == (12_000 if getattr(kernel, "keywords", {}).get("n_leapfrog") else 4000)
    if "exact" in getattr(kernel, "keywords", {}):
        assert (info.log_w[info.failed] == 0).all()


def test_log_gamma_has_no_nan_at_the_ends() -> None:
    particles = evaluate_particles(torch.tensor([[[-1.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]]]), half_space)
    for lam in (0.0, 0.5, 1.0):
        assert not particles.log_gamma(lam).isnan().any()
        assert particles.grad_gamma(lam).isfinite().all()
    assert particles.log_gamma(0.0).isfinite().all()
    assert torch.isneginf(particles.log_gamma(1.0)[0])


def test_exact_ula_weight_is_the_langevin_ratio(problems: dict[str, Any]) -> None:
    """Against the densities M written out."""
    problem, h = problems["correlated"](), 0.03
    start = evaluate_particles(problem.propose(50, 0), problem.evaluate)
    end, info = ula(start, problem.evaluate, 0.4, h, generator(1, Stage.MOVE), exact=True)

    def log_m(new: Any, old: Any) -> Tensor:
        mean = old.x + h * old.grad_gamma(0.4)
        return -(new.x - mean).square().sum((1, 2)) / (4 * h)

    ratio = end.log_gamma(0.4) + log_m(start, end) - start.log_gamma(0.4) - log_m(end, start)
    torch.testing.assert_close(info.log_w, ratio)


def test_step_size_follows_acceptance() -> None:
    assert adapted_step_size(0.1, 0.9, 0.574) > 0.1 > adapted_step_size(0.1, 0.1, 0.574)
    assert adapted_step_size(0.1, 0.574, 0.574) == 0.1


def test_gradients_are_asked_for() -> None:
    def blind(x: Tensor) -> Endpoints:
        return Endpoints(torch.zeros(len(x)), torch.zeros(len(x)), None, None, torch.ones(len(x)).bool())

    with pytest.raises(ValueError, match="needs gradients"):
        evaluate_particles(torch.zeros(2, 1, 3), blind)
    with pytest.raises(ValueError, match="returned shapes"):
        evaluate_particles(torch.zeros(2, 1, 3), lambda x: half_space(x)._replace(log_q=torch.zeros(3)))
