"""Targets with known answers, and the check at 5 standard errors."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from boltzray.samplers import Endpoints

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """Proposal N(0, s²·1) and target exp(log_z) · Σ_k weight_k N(mean_k, covariance_k), in D = 3N dimensions.

    Shape: weights (K,), means (K, D), covariances (K, D, D).
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    proposal_std: float
    log_z: float

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    def propose(self, n: int, seed: int) -> Tensor:
        noise = torch.randn(n, self.dim // 3, 3, generator=torch.Generator().manual_seed(seed)).double()
        return self.proposal_std * noise

    def sample_target(self, n: int, seed: int) -> Tensor:
        source = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, n, replacement=True, generator=source)
        noise = torch.randn(n, self.dim, generator=source, dtype=torch.float64)
        factors = torch.linalg.cholesky(self.covariances)
        flat = self.means[which] + (factors[which] @ noise[:, :, None])[:, :, 0]
        return flat.view(n, -1, 3)

    def evaluate(self, x: Tensor) -> Endpoints:
        flat = x.double().flatten(1)
        normal = 0.5 * self.dim * np.log(2 * np.pi)
        log_q = -0.5 * (flat / self.proposal_std).square().sum(1) - normal - self.dim * np.log(self.proposal_std)
        forces, logs = [], []
        for weight, mean, covariance in zip(self.weights, self.means, self.covariances, strict=True):
            force = -(flat - mean) @ torch.linalg.inv(covariance)
            log_norm = weight.log() - normal - 0.5 * torch.logdet(covariance)
            forces.append(force)
            logs.append(0.5 * (force * (flat - mean)).sum(1) + log_norm)
        share = torch.softmax(torch.stack(logs), 0)
        return Endpoints(
            log_q=log_q,
            log_p=torch.logsumexp(torch.stack(logs), 0) + self.log_z,
            grad_q=(-flat / self.proposal_std**2).view_as(x),
            grad_p=(share[:, :, None] * torch.stack(forces)).sum(0).view_as(x),
            ok=torch.ones(len(x), dtype=torch.bool),
        )

    def moments(self, x: Tensor, log_w: Tensor) -> dict[str, float]:
        """Mean, and variance about the exact mean, averaged over coordinates; E[x₀x₁]; P(x₀ > 0)."""
        flat, w = x.double().flatten(1), torch.softmax(log_w, 0)
        exact_mean = self.weights @ self.means
        return {
            "mean": float((w @ flat).mean()),
            "variance": float((w @ (flat - exact_mean).square()).mean()),
            "product": float(w @ (flat[:, 0] * flat[:, 1])),
            "mode weight": float(w @ (flat[:, 0] > 0).double()),
        }

    def exact_moments(self) -> dict[str, float]:
        mean = self.weights @ self.means
        outer = torch.einsum("k,kij->ij", self.weights, self.covariances + _outer(self.means))
        std = self.covariances[:, 0, 0].sqrt()
        above = 0.5 * (1 + torch.erf(self.means[:, 0] / std / 2**0.5))
        return {
            "mean": float(mean.mean()),
            "variance": float((outer.diagonal() - mean.square()).mean()),
            "product": float(outer[0, 1]),
            "mode weight": float(self.weights @ above),
        }


def _outer(means: Tensor) -> Tensor:
    return means[:, :, None] * means[:, None, :]


def gaussian(n_atoms: int, mean: float, std: float, log_z: float = 0.0, proposal_std: float = 1.0) -> Problem:
    dim = 3 * n_atoms
    return Problem(
        weights=torch.ones(1, dtype=torch.float64),
        means=torch.full((1, dim), mean, dtype=torch.float64),
        covariances=std**2 * torch.eye(dim, dtype=torch.float64)[None],
        proposal_std=proposal_std,
        log_z=log_z,
    )


def correlated() -> Problem:
    """Six dimensions, condition number about 30."""
    factor = torch.randn(6, 6, generator=torch.Generator().manual_seed(3)).double()
    axes = torch.linalg.qr(factor)[0]
    covariance = axes @ torch.diag(torch.linspace(0.05, 1.5, 6).double()) @ axes.T
    return Problem(
        weights=torch.ones(1, dtype=torch.float64),
        means=torch.full((1, 6), 0.3, dtype=torch.float64),
        covariances=covariance[None],
        proposal_std=1.4,
        log_z=3.0,
    )


def two_modes() -> Problem:
    """Modes at ±2 along the first axis with weights 0.3 and 0.7."""
    means = torch.zeros(2, 3, dtype=torch.float64)
    means[0, 0], means[1, 0] = -2.0, 2.0
    return Problem(
        weights=torch.tensor([0.3, 0.7], dtype=torch.float64),
        means=means,
        covariances=0.16 * torch.eye(3, dtype=torch.float64).repeat(2, 1, 1),
        proposal_std=1.5,
        log_z=-5.0,
    )


Check = Callable[[str, float, float, float], None]


def _check(name: str, estimate: float, error: float, exact: float) -> None:
    line = f"{name}: {estimate:.5f} ± {error:.5f}, exact {exact:.5f}, {(estimate - exact) / error:+.1f} σ"
    print(line)
    assert abs(estimate - exact) < 5 * error, line


@pytest.fixture
def check() -> Check:
    """Print estimate ± error against the exact value, fail at 5 σ."""
    return _check


@pytest.fixture
def problems() -> dict[str, Callable[..., Problem]]:
    return {"gaussian": gaussian, "correlated": correlated, "two_modes": two_modes}
