"""Contract of all flows, for all kinds and orderings, in float64 with weights away from zero."""

from typing import Any

import pytest
import torch
from torch import Tensor

from boltzray import models
from boltzray.models.config import PROSE_ORDERINGS
from golden_flows import lone_peptide, peptide, random_flow

KINDS: list[dict[str, Any]] = [{"adaptive": a, "lookahead": b} for a in (True, False) for b in (True, False)]
ORDERINGS = [name.replace("n2c", end) for name in PROSE_ORDERINGS for end in ("n2c", "c2n")]
PLAIN: dict[str, Any] = {"adaptive": False, "lookahead": False}
SYSTEM = PLAIN | {"system": "ACE-A-NME", "system_atoms": 22}
SYSTEMS: list[dict[str, Any]] = [SYSTEM | {"token": token} for token in ("atom", "coordinate")]

ONE_BLOCK = [kind | {"blocks": 1, "orderings": (name,)} for kind in KINDS for name in ORDERINGS] + [
    system | {"blocks": 1, "orderings": (name,)} for system in SYSTEMS for name in ("identity", "identity_flip")
]
SEVERAL = [kind | {"blocks": 3} for kind in KINDS] + [system | {"blocks": 3} for system in SYSTEMS]


def name_of(config: dict[str, Any]) -> str:
    kind = f"system-{config['token']}" if "system" in config else "adaptive" if config["adaptive"] else "plain"
    return "-".join([kind, *["lookahead"] * config["lookahead"], *config.get("orderings", ())])


@pytest.fixture
def two_residues(archives: dict[str, Any]) -> Any:
    return peptide(archives["prose_small"], "AA")


def conditioned(config: dict[str, Any], two_residues: Any) -> tuple[models.Flow, models.Conditioning, int]:
    """A random flow, conditioned on a peptide that it takes, and that peptide's number of atoms."""
    flow = random_flow(**config)
    if flow.config.system:
        return flow, flow.condition(lone_peptide("ACE-A-NME", 22)), 22
    return flow, flow.condition(two_residues), 23


def coordinates(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("config", ONE_BLOCK + SEVERAL, ids=name_of)
def test_inverse_and_jacobian(config: dict[str, Any], two_residues: Any) -> None:
    flow, c, n = conditioned(config, two_residues)
    x = coordinates(3, n, 3)
    z, forward = flow(x, c)
    assert (z - x).abs().amax((1, 2)).min() > 0.1  # the flow does something
    back, inverse = flow.inverse(z, c)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=0)
    torch.testing.assert_close(forward + inverse, torch.zeros_like(forward), atol=1e-9, rtol=0)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: flow(v.view(1, n, 3), c)[0].flatten(), x[0].flatten(), vectorize=True
    )
    torch.testing.assert_close(forward[0], torch.linalg.slogdet(jacobian).logabsdet, atol=1e-8, rtol=0)


@pytest.mark.parametrize("config", SEVERAL, ids=name_of)
def test_a_batch_is_its_rows(config: dict[str, Any], two_residues: Any) -> None:
    flow, c, n = conditioned(config, two_residues)
    x = coordinates(4, n, 3)
    alone = torch.cat([flow.log_prob(row[None], c) for row in x])
    torch.testing.assert_close(flow.log_prob(x, c), alone, atol=1e-10, rtol=0)
    z, _ = flow(x, c)
    back = torch.cat([flow.inverse(row[None], c)[0] for row in z])
    torch.testing.assert_close(flow.inverse(z, c)[0], back, atol=1e-9, rtol=0)


@pytest.mark.parametrize("config", SEVERAL, ids=name_of)
def test_a_token_depends_on_those_before_it_alone(config: dict[str, Any], two_residues: Any) -> None:
    flow, c, n = conditioned(config | {"blocks": 1}, two_residues)
    x = coordinates(1, n, 3)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v, c)[0], x, vectorize=True)[0, :, :, 0]
    size = flow.config.token_dim
    order = c.order[0, 0]
    tokens = jacobian.reshape(3 * n // size, size, 3 * n // size, size)[order][:, :, order]
    for i in range(len(order)):
        assert (tokens[i, :, i + 1 :] == 0).all()
    assert (tokens[1:, 0, 0, 0] != 0).all()  # and on all of them


@pytest.mark.parametrize("ordering", ORDERINGS)
@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_padded_equals_unpadded(archives: dict[str, Any], kind: dict[str, Any], ordering: str) -> None:
    flow = random_flow(**kind, blocks=1, orderings=(ordering,))
    peptides = [peptide(archives["prose_small"], s) for s in ("AA", "GP")]
    sizes = [len(p.encodings["atom_type"]) for p in peptides]
    together = flow.conditioning(flow.tables(peptides))
    assert together.mask is not None
    x = torch.zeros(2, max(sizes), 3, dtype=torch.float64)
    for row, size in zip(x, sizes, strict=True):
        row[:size] = coordinates(size, 3)
    z, logdet = flow(x, together)
    back, inverse = flow.inverse(z, together)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=0)
    torch.testing.assert_close(inverse, -logdet, atol=1e-9, rtol=0)
    log_q = flow.log_prob(x, together)
    for i, (p, size) in enumerate(zip(peptides, sizes, strict=True)):
        c, row = flow.condition(p), x[i : i + 1, :size]
        alone, alone_logdet = flow(row, c)
        torch.testing.assert_close(z[i, :size], alone[0], atol=1e-12, rtol=0)
        assert (z[i, size:] == 0).all()
        torch.testing.assert_close(logdet[i], alone_logdet[0], atol=1e-10, rtol=0)
        torch.testing.assert_close(log_q[i], flow.log_prob(row, c)[0], atol=1e-10, rtol=0)


@pytest.mark.parametrize("config", SEVERAL, ids=name_of)
def test_draws_come_with_their_density(config: dict[str, Any], two_residues: Any) -> None:
    flow, c, n = conditioned(config, two_residues)
    z, _ = flow(coordinates(6, n, 3), c)  # latents that the random flow does not send to infinity
    x, log_q = (t.clone() for t in flow.push(z, c))  # out of inference mode
    torch.testing.assert_close(flow.log_prob(x, c), log_q, atol=1e-9, rtol=0)
    drawn, again = (flow.sample(c, 2, torch.Generator().manual_seed(1)) for _ in range(2))
    assert drawn[0].shape == (2, n, 3)
    torch.testing.assert_close(drawn, again, atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("config", SEVERAL, ids=name_of)
def test_every_parameter_gets_a_gradient(config: dict[str, Any], two_residues: Any) -> None:
    flow, _, n = conditioned(config, two_residues)
    flow.requires_grad_(True)
    known = lone_peptide("ACE-A-NME", 22) if flow.config.system else two_residues
    flow.log_prob(coordinates(3, n, 3), flow.conditioning(flow.tables([known]))).sum().backward()
    without = [name for name, p in flow.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not without
