"""The tempered flow: its density is the one drawn from, and it meets a Gaussian target at two temperatures."""

import math
from pathlib import Path

import pytest
import torch

from boltzray import models
from boltzray.molecules import Peptide
from boltzray.samplers import com_log_density, ess

RATIO = 500.0 / 310.0


@pytest.fixture(scope="module")
def peptide(data: Path) -> Peptide:
    return Peptide.from_pdb(data / "pdbs" / "test" / "AA.pdb")


def make_flow(noise: float) -> models.Flow:
    """The identity at noise 0: what a new flow is."""
    torch.manual_seed(1)
    flow = models.Flow(models.FlowConfig(channels=16, head_dim=8, blocks=2, layers_per_block=1), scale_nm=0.17)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return flow.eval().requires_grad_(False)


def noise(n: int) -> torch.Tensor:
    return torch.randn((n, 23, 3), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("temperature_k", [310.0, 500.0])
def test_a_gaussian_is_met_at_every_temperature(peptide: Peptide, temperature_k: float) -> None:
    """The identity flow against U = |x − x̄|²/2 in kT at 310 K and the distribution of its centre of mass: ESS 1."""
    ratio = temperature_k / 310.0
    flow = make_flow(0.0)
    c = flow.condition(peptide)
    x, log_q = flow.push(noise(2000), c, temperature_ratio=ratio)
    inner = (x - x.mean(1, keepdim=True)).double()
    log_p = com_log_density(x, temperature_ratio=ratio)[0] - 0.5 * inner.square().sum((1, 2)) / ratio
    share = ess(log_p - log_q.double())
    exact = 1.5 * 23 * math.log(2 * math.pi * ratio)
    print(f"{temperature_k:g} K: ESS {share:.6f}, log Z {float((log_p - log_q).mean()):.4f}, exact {exact:.4f}")
    assert share == pytest.approx(1.0, abs=1e-6)
    assert float((log_p - log_q).mean()) == pytest.approx(exact, abs=1e-3)
    assert float(x.square().mean()) == pytest.approx(ratio, rel=0.02)
    if ratio > 1.0:  # the untempered draws, against the hot target, are what this is for
        cold, cold_q = flow.push(noise(2000), c, temperature_ratio=1.0)
        hot = -0.5 * cold.double().square().sum((1, 2)) / ratio
        assert ess(hot - cold_q.double()) < 0.2


def test_draws_and_log_prob_agree(peptide: Peptide) -> None:
    flow = make_flow(0.05)
    c = flow.condition(peptide)
    x, log_q = flow.push(noise(64), c, temperature_ratio=RATIO)
    forward, _ = models.log_prob_and_gradient(flow, x.clone(), c, RATIO)
    torch.testing.assert_close(forward.double(), log_q.double(), rtol=0, atol=2e-3)
    plain, _ = models.log_prob_and_gradient(flow, x.clone(), c, 1.0)
    assert (forward - plain).abs().mean() > 1.0


def test_the_gradient_is_the_densitys(peptide: Peptide) -> None:
    flow = make_flow(0.05).double()
    c = flow.condition(peptide)
    x = flow.push(noise(4).double(), c, temperature_ratio=RATIO)[0].clone()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    _, gradient = models.log_prob_and_gradient(flow, x, c, RATIO)
    h = 1e-5
    up, down = (models.log_prob_and_gradient(flow, x + s * h * direction, c, RATIO)[0] for s in (1, -1))
    torch.testing.assert_close((up - down) / (2 * h), (gradient * direction).sum((1, 2)), rtol=1e-6, atol=1e-6)
