"""Flows of internal coordinates: what every flow must do, on conformations of peptides, in float64."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from boltzray import models
from boltzray.models.augment import random_rotations
from boltzray.molecules import Peptide

SCALE = 0.2  # nm
KINDS: list[dict[str, Any]] = [{}, {"layers_per_block": 1, "components": 1}, {"dihedral_components": 3}]


def random_flow(**config: Any) -> models.Flow:
    torch.manual_seed(3)
    defaults = {"channels": 16, "head_dim": 8, "blocks": 1, "layers_per_block": 2}
    flow = models.Flow(models.FlowConfig(**defaults | config, coordinates="internal"), SCALE).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return flow


def conformations(peptide: Peptide, n: int, size_nm: float = 0.001) -> Tensor:
    """Shaken copies of the peptide, turned and shifted."""
    rng = np.random.default_rng(1)
    x = peptide.positions - peptide.positions.mean(0) + size_nm * rng.standard_normal((n, peptide.n_atoms, 3))
    x = x / SCALE @ random_rotations(n, rng).transpose(0, 2, 1) + 0.2 * rng.standard_normal((n, 1, 3))
    return torch.from_numpy(x)


@pytest.mark.parametrize("kind", KINDS)
def test_inverse_and_jacobian(kind: dict[str, Any]) -> None:
    peptide = Peptide.from_sequence("GG")
    flow = random_flow(**kind)
    c, x = flow.condition(peptide), conformations(peptide, 3)
    z, forward = flow(x, c)
    back, inverse = flow.inverse(z, c)
    torch.testing.assert_close(back, x, atol=1e-7, rtol=1e-9)
    torch.testing.assert_close(forward + inverse, torch.zeros_like(forward), atol=1e-7, rtol=1e-9)
    n = peptide.n_atoms
    jacobian = torch.autograd.functional.jacobian(
        lambda v: flow(v.view(1, n, 3), c)[0].flatten(), x[0].flatten(), vectorize=True
    )
    torch.testing.assert_close(forward[0], torch.linalg.slogdet(jacobian).logabsdet, atol=1e-7, rtol=1e-9)


def test_log_prob_is_that_of_the_latents_and_its_gradient_that_of_differences() -> None:
    peptide = Peptide.from_sequence("AS")
    flow = random_flow()
    c, x = flow.condition(peptide), conformations(peptide, 4)
    z, logdet = flow(x, c)
    base = -0.5 * z.square().sum((1, 2)) - 1.5 * peptide.n_atoms * math.log(2 * math.pi)
    torch.testing.assert_close(flow.log_prob(x, c), base + logdet, atol=1e-7, rtol=1e-9)
    _, gradient = models.log_prob_and_gradient(flow, x, c)
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    step = 1e-6
    slope = (flow.log_prob(x + step * direction, c) - flow.log_prob(x - step * direction, c)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum((1, 2)), slope, rtol=1e-3, atol=1e-2)


def test_draws_carry_their_density() -> None:
    """Latents of the flow's own conformations, so that none lies outside the chart."""
    peptide = Peptide.from_sequence("AL")
    flow = random_flow()
    c = flow.condition(peptide)
    z, _ = flow(conformations(peptide, 5), c)
    for ratio in (1.0, 1.5):
        x, log_q = flow.push(z, c, temperature_ratio=ratio)
        inside = x.isfinite().all(-1).all(-1)
        assert inside.any()
        torch.testing.assert_close(log_q[inside], flow.log_prob(x, c, temperature_ratio=ratio)[inside])


def test_rigid_motion_leaves_the_density_and_equivalent_hydrogens_may_swap() -> None:
    peptide = Peptide.from_sequence("AK")
    flow = random_flow()
    c, x = flow.condition(peptide), conformations(peptide, 4)
    turn = torch.from_numpy(random_rotations(4, np.random.default_rng(0)))
    torch.testing.assert_close(flow.log_prob(x @ turn.transpose(1, 2), c), flow.log_prob(x, c))
    names = [f"{a.residue.index}{a.name}" for a in peptide.topology.atoms()]
    order = np.arange(peptide.n_atoms)
    pair = [names.index("1HB2"), names.index("1HB3")]
    order[pair] = order[pair[::-1]]
    swapped = Peptide(
        sequence=peptide.sequence,
        positions=peptide.positions[order],
        topology=peptide.topology,
        encodings=peptide.encodings,
        orderings=peptide.orderings,
    )
    torch.testing.assert_close(flow.log_prob(x[:, order], flow.condition(swapped)), flow.log_prob(x, c))


def test_padded_is_unpadded_and_a_batch_is_its_rows() -> None:
    peptides = [Peptide.from_sequence(s) for s in ("GG", "AW")]
    flow = random_flow()
    x = torch.zeros(2, peptides[1].n_atoms, 3, dtype=torch.float64)
    for row, peptide in zip(x, peptides, strict=True):
        row[: peptide.n_atoms] = conformations(peptide, 1)[0]
    c = flow.conditioning(flow.tables(peptides))
    z, logdet = flow(x, c)
    log_q = flow.log_prob(x, c)
    for i, peptide in enumerate(peptides):
        n, alone = peptide.n_atoms, flow.condition(peptide)
        z_alone, logdet_alone = flow(x[i : i + 1, :n], alone)
        torch.testing.assert_close(z[i : i + 1, :n], z_alone, atol=1e-7, rtol=1e-9)
        torch.testing.assert_close(logdet[i], logdet_alone[0], atol=1e-7, rtol=1e-9)
        torch.testing.assert_close(log_q[i], flow.log_prob(x[i : i + 1, :n], alone)[0], atol=1e-7, rtol=1e-9)
        assert not z[i, n:].any()
    back, _ = flow.inverse(z, c)
    torch.testing.assert_close(back, x, atol=1e-7, rtol=1e-9)
    log_q.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())


def test_a_new_flow_knows_the_usual_geometry() -> None:
    """Without any training, draws have bonds of the right length; a Cartesian flow needs an hour for that."""
    peptide = Peptide.from_sequence("AF")
    flow = models.Flow(models.FlowConfig(channels=16, head_dim=8, blocks=1, layers_per_block=1, coordinates="internal"))
    x, log_q = flow.sample(flow.condition(peptide), 500, torch.Generator().manual_seed(0))
    assert x.isfinite().all()
    assert log_q.isfinite().all()
    bonds = [(b[0].index, b[1].index) for b in peptide.topology.bonds()]
    bonded_to_parent = {frozenset((i, int(p))) for i, p in enumerate(peptide.internal()["z_matrix"][:, 0])}
    a, b = torch.tensor([pair for pair in bonds if frozenset(pair) in bonded_to_parent]).T
    length = (x[:, a] - x[:, b]).norm(dim=-1).mean(0)
    built = torch.from_numpy(np.linalg.norm(peptide.positions[a] - peptide.positions[b], axis=-1)).float()
    assert (length - built).abs().max() < 0.03


def test_saved_and_loaded_with_the_same_table_of_geometry_only(tmp_path: Path) -> None:
    flow = random_flow().float()
    folder = models.save(flow, tmp_path / "flow")
    c, x = flow.condition(Peptide.from_sequence("AG")), conformations(Peptide.from_sequence("AG"), 2).float()
    assert torch.equal(models.load(folder).log_prob(x, c), flow.log_prob(x, c))
    flow.geometry = "another"
    other = models.save(flow, tmp_path / "other")
    with pytest.raises(ValueError, match="geometry"):
        models.load(other)
    with pytest.raises(ValueError, match="Cartesian"):
        models.to_public(flow)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coordinates": "polar"}, "cartesian or internal"),
        ({"coordinates": "internal", "blocks": 1, "components": 0}, "components"),
        ({"coordinates": "internal", "blocks": 4}, "blocks=1"),
        (
            {
                "coordinates": "internal",
                "blocks": 1,
                "system": "AAA",
                "system_atoms": 33,
                "token": "coordinate",
            },
            "leave token= out",
        ),
    ],
)
def test_configurations_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.FlowConfig(**change)
