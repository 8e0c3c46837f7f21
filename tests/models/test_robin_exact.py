"""Robin on a molecule whose partition function is known: log Z, moments, and the centre of mass of draws over bins."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from boltzray import models
from boltzray.models.augment import augment
from boltzray.models.flow import Draw
from boltzray.samplers import bins_com_log_density, com_log_density, ess, snis
from golden_flows import lone_peptide

N, LENGTH, SPREAD = 3, 1.0, 0.12  # three atoms, each two bound by a spring; in normalised units
STEPS, BATCH, DRAWS = 400, 256, 20_000
PAIRS = ((0, 1), (0, 2), (1, 2))


def energy(x: Tensor) -> Tensor:
    lengths = torch.stack([(x[:, i] - x[:, j]).norm(dim=-1) for i, j in PAIRS])
    return 0.5 * ((lengths - LENGTH) / SPREAD).square().sum(0)


class Truth(NamedTuple):
    """Closed form, by quadrature over the three sides: d⁶(relative positions) = 8π² abc da db dc."""

    log_z: float
    mean_length: float


def truth() -> Truth:
    r = np.linspace(LENGTH - 7 * SPREAD, LENGTH + 7 * SPREAD, 141)
    a, b, c = np.meshgrid(r, r, r, indexing="ij")
    density = a * b * c * np.exp(-0.5 * sum(((s - LENGTH) / SPREAD) ** 2 for s in (a, b, c)))
    density *= (a + b > c) & (a + c > b) & (b + c > a)
    z = 8 * math.pi**2 * density.sum() * (r[1] - r[0]) ** 3 * (2 * math.pi / N) ** 1.5
    return Truth(math.log(z), float((a * density).sum() / density.sum()))


def frames(n: int, rng: np.random.Generator) -> np.ndarray:
    """Exact samples, all in one plane: `augment` turns them."""
    sides = LENGTH + SPREAD * rng.standard_normal((40 * n, 3))
    a, b, c = sides.T
    good = (sides > 0).all(1) & (a + b > c) & (a + c > b) & (b + c > a)
    sides = sides[good]
    weight = sides.prod(1)
    a, b, c = sides[rng.choice(len(sides), n, p=weight / weight.sum())].T
    x = np.zeros((n, N, 3))
    x[:, 1, 0] = a
    x[:, 2, 0] = (a**2 + b**2 - c**2) / (2 * a)
    x[:, 2, 1] = np.sqrt(b**2 - x[:, 2, 0] ** 2)
    return x


def trained(center: str) -> models.Flow:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    flow = models.Flow(
        models.FlowConfig(
            coordinates="binned", channels=32, head_dim=16, blocks=1, layers_per_block=2, bins=64,
            bin_range=(-1.2, 1.2) if center == "zero" else (-3.5, 3.5), max_atoms=N, system="XYZ", system_atoms=N,
            center=center,
        ),
        1.0,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(flow.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, STEPS)
    data = frames(20_000, rng)
    for _ in range(STEPS):
        x = torch.from_numpy(augment(data[rng.integers(len(data), size=BATCH)], 1.0, rng, center))
        loss = flow.loss(x, flow.conditioning(flow.tables([lone_peptide("XYZ", N)])))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return flow.eval()


def drawn(flow: models.Flow) -> Draw:
    noise = torch.from_numpy(flow.noise(np.random.default_rng(1), DRAWS, N))
    return flow.draw(noise, flow.condition(lone_peptide("XYZ", N)))


def agrees(log_q: Tensor, log_p: np.ndarray, x: Tensor) -> None:
    want, result = truth(), snis(None, log_q, log_p, "none")
    print(f"log Z {result.log_z:.4f} ± {result.log_z_error:.4f}, exactly {want.log_z:.4f}; k̂ {result.k_hat:.2f}")
    assert abs(result.log_z - want.log_z) < 5 * result.log_z_error, (result.log_z, want.log_z)
    w = np.exp(log_p - log_q.numpy() - result.log_z)
    w /= w.sum()
    length = (x[:, 0] - x[:, 1]).norm(dim=-1).double().numpy()
    mean = float(w @ length)
    error = float(np.sqrt((w**2) @ (length - mean) ** 2))
    assert abs(mean - want.mean_length) < 5 * error, (mean, want.mean_length, error)


@pytest.mark.slow
def test_frames_at_the_origin() -> None:
    flow = trained("zero")
    x, log_q, center, _ = drawn(flow)
    assert center is not None
    bare = -energy(x).double().numpy() - flow.log_covered(N)
    term = bins_com_log_density(center.numpy(), N)
    agrees(log_q, bare + term.log_density, x)
    right, public = ess(bare + term.log_density - log_q.numpy()), ess(bare - log_q.numpy())
    of_x = bins_com_log_density(x.double().mean(1).numpy(), N)
    by_x = ess(bare + of_x.log_density - log_q.numpy())
    print(f"ESS {right:.3f}; without the term {public:.4f}; with the mean of x {by_x:.4f}")
    print(f"spread {term.spread:.5f}, of a perfect flow {2.4 / 63 / math.sqrt(12 * N):.5f}")
    assert right > 5 * public


@pytest.mark.slow
def test_frames_with_a_gaussian_center() -> None:
    flow = trained("gaussian")
    x, log_q, center, _ = drawn(flow)
    assert center is None
    log_p = com_log_density(x)[0].numpy() - energy(x).double().numpy() - flow.log_covered(N)
    agrees(log_q, log_p, x)
    print(f"ESS {ess(log_p - log_q.numpy()):.3f}")
