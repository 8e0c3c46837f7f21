"""Free energies of harmonic systems, whose partition functions are known: by the acceptance ratio, and by log Z."""

import numpy as np
import pytest
import torch

from boltzray.samplers import com_log_density, snis
from boltzray.samplers.bennett import bennett
from boltzray.samplers.com import CenterOfMass
from boltzray.samplers.configurational import configurational_log_z

DIMENSIONS, K1, K2 = 12, 1.0, 1.8


def work(x: np.ndarray) -> np.ndarray:
    return (K2 - K1) / 2 * (x**2).sum(axis=1)


def draws(stiffness: float, width: float, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws of a Gaussian that is `width` times as wide as exp(−stiffness x²/2), and log-weights to that."""
    x = rng.normal(size=(n, DIMENSIONS)) * width / np.sqrt(stiffness)
    return x, -(1 - width**-2) * stiffness / 2 * (x**2).sum(axis=1)


def test_two_oscillators_differ_by_half_the_log_of_their_stiffness() -> None:
    truth, z = DIMENSIONS / 2 * np.log(K2 / K1), []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        (a, log_a), (b, log_b) = draws(K1, 1.0, 1000, rng), draws(K2, 1.05, 700, rng)
        found = bennett(work(a), work(b), log_a, log_b, seed=seed)
        z.append((found.value - truth) / found.error)
        assert found.low <= found.value <= found.high
    assert abs(np.mean(z)) < 5 / np.sqrt(30)
    assert 0.6 < np.std(z) < 1.4
    assert bennett(-work(b), -work(a), log_b, log_a).value == pytest.approx(-found.value, abs=1e-6)


def test_what_does_not_overlap_is_refused() -> None:
    with pytest.raises(ValueError, match="do not overlap"):
        bennett(np.full(50, 2000.0), np.full(50, -2000.0))


@pytest.mark.parametrize("com", ["gaussian", "radial"])
@pytest.mark.parametrize(("scale", "ratio", "n_atoms"), [(0.15, 1.0, 3), (0.4, 1.06, 3), (0.2, 0.9, 2)])
def test_log_z_of_the_molecule_does_not_depend_on_the_flow(
    com: CenterOfMass, scale: float, ratio: float, n_atoms: int
) -> None:
    """Atoms on springs to their mean: ∫ exp(−κ/2 Σ|r − r̄|²) δ(r̄) dr = N^(3/2) (2π/κ)^((3N − 3)/2)."""
    kappa = 1.2 / 0.2**2  # in kT/nm²
    x = torch.randn(200_000, n_atoms, 3, generator=torch.manual_seed(1), dtype=torch.float64)
    widths = torch.tensor([ratio**0.5, 1 / (scale * kappa**0.5)])  # of the mean (times √N), and of what is left
    mean = x.mean(dim=1, keepdim=True)
    x = 1.1 * (widths[0] * mean + widths[1] * (x - mean))
    mean = x.mean(dim=1, keepdim=True)
    inner, outer = (x - mean).square().sum((1, 2)), n_atoms * mean.square().sum((1, 2))
    log_q = -inner / (2 * (1.1 * widths[1]) ** 2) - outer / (2 * (1.1 * widths[0]) ** 2)
    log_q = log_q - 3 * torch.log(1.1 * widths[0]) - (3 * n_atoms - 3) * torch.log(1.1 * widths[1])
    log_q = log_q - 1.5 * n_atoms * np.log(2 * np.pi)
    energy = kappa / 2 * scale**2 * inner
    found = snis(None, log_q, com_log_density(x, com, ratio)[0] - energy, "none")
    truth = 1.5 * np.log(n_atoms) + (3 * n_atoms - 3) / 2 * np.log(2 * np.pi / kappa)
    assert abs(configurational_log_z(found.log_z, n_atoms, scale, ratio, com) - truth) < 5 * found.log_z_error
