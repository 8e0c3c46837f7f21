"""Prose and TarFlow: equal to the golden vectors, invertible, with the Jacobian that autograd finds."""

import json
from typing import Any

import numpy as np
import pytest
import torch

import models
from golden_flows import GOLDEN, peptide, random_flow
from models.config import PROSE_ORDERINGS

CASES = [("prose_small", s) for s in ("AA", "GP", "TVWY", "ACDEFGHI", "KLMNPQRS")] + [
    ("tarflow_small", s) for s in ("AA", "KLMNPQRS")
]


@pytest.fixture(scope="module")
def flows() -> dict[str, models.Flow]:
    result = {}
    for name in ("prose_small", "tarflow_small"):
        head_dim = json.loads((GOLDEN / f"{name}.json").read_text())["head_dim"]
        result[name] = models.load(GOLDEN / f"{name}.pth", head_dim=head_dim).requires_grad_(False)
    return result


@pytest.mark.parametrize(("name", "sequence"), CASES)
def test_golden(archives: dict[str, Any], flows: dict[str, models.Flow], name: str, sequence: str) -> None:
    archive, flow = archives[name], flows[name]
    want = {k: torch.from_numpy(archive[f"{sequence}/{k}"]) for k in ("x", "z", "z0", "x_inverse")}
    c = flow.condition(peptide(archive, sequence))
    z, forward = flow(want["x"], c)
    x, inverse = flow.inverse(want["z0"], c)
    torch.testing.assert_close(z, want["z"], atol=2e-4, rtol=0)
    torch.testing.assert_close(x, want["x_inverse"], atol=2e-4, rtol=0)
    np.testing.assert_allclose(forward, archive[f"{sequence}/logdet_forward"], atol=2e-4)
    np.testing.assert_allclose(inverse, archive[f"{sequence}/logdet_inverse"], atol=2e-4)


KINDS = [
    {"adaptive": True, "lookahead": True},
    {"adaptive": True, "lookahead": False},
    {"adaptive": False, "lookahead": True},
    {"adaptive": False, "lookahead": False},
]


@pytest.mark.parametrize("kind", KINDS)
def test_inverse_and_log_determinants_cancel(archives: dict[str, Any], kind: dict[str, bool]) -> None:
    flow = random_flow(**kind)
    c = flow.condition(peptide(archives["prose_small"], "GP"))
    n = c.order.shape[-1]
    x = torch.randn(5, n, 3, dtype=torch.float64)
    z, forward = flow(x, c)
    back, inverse = flow.inverse(z, c)
    assert (z - x).abs().max() > 0.1  # the flow does something
    torch.testing.assert_close(back, x, atol=1e-9, rtol=0)
    torch.testing.assert_close(forward + inverse, torch.zeros_like(forward), atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", KINDS[::3])
@pytest.mark.parametrize("ordering", [name.replace("n2c", end) for name in PROSE_ORDERINGS for end in ("n2c", "c2n")])
def test_log_determinant_is_the_jacobian_s(archives: dict[str, Any], kind: dict[str, bool], ordering: str) -> None:
    flow = random_flow(**kind, blocks=1, orderings=(ordering,))
    c = flow.condition(peptide(archives["prose_small"], "AA"))
    x = torch.randn(1, 23, 3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v.view(1, 23, 3), c)[0].flatten(), x.flatten())
    want = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(flow(x, c)[1][0], want, atol=1e-8, rtol=0)


def test_log_determinant_of_several_blocks(archives: dict[str, Any]) -> None:
    flow = random_flow(blocks=3)
    c = flow.condition(peptide(archives["prose_small"], "AA"))
    x = torch.randn(1, 23, 3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v.view(1, 23, 3), c)[0].flatten(), x.flatten())
    torch.testing.assert_close(flow(x, c)[1][0], torch.linalg.slogdet(jacobian).logabsdet, atol=1e-8, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_padded_equals_unpadded(archives: dict[str, Any], kind: dict[str, bool]) -> None:
    flow = random_flow(**kind)
    peptides = [peptide(archives["prose_small"], s) for s in ("AA", "TVWY")]
    together = flow.conditioning(flow.tables(peptides))
    n = together.order.shape[-1]
    x = torch.zeros(2, n, 3, dtype=torch.float64)
    for row, p in zip(x, peptides, strict=True):
        row[: len(p.encodings["atom_type"])] = torch.randn(len(p.encodings["atom_type"]), 3, dtype=torch.float64)
    z, logdet = flow(x, together)
    back, _ = flow.inverse(z, together)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=0)
    log_q = flow.log_prob(x, together)
    for i, p in enumerate(peptides):
        k, c = len(p.encodings["atom_type"]), flow.condition(p)
        alone, alone_logdet = flow(x[i : i + 1, :k], c)
        torch.testing.assert_close(z[i, :k], alone[0], atol=1e-12, rtol=0)
        assert (z[i, k:] == 0).all()
        torch.testing.assert_close(logdet[i], alone_logdet[0], atol=1e-10, rtol=0)
        torch.testing.assert_close(log_q[i], flow.log_prob(x[i : i + 1, :k], c)[0], atol=1e-10, rtol=0)


def test_a_batch_is_its_rows(archives: dict[str, Any], flows: dict[str, models.Flow]) -> None:
    flow = flows["prose_small"]
    c = flow.condition(peptide(archives["prose_small"], "TVWY"))
    x = torch.randn(7, c.order.shape[-1], 3)
    torch.testing.assert_close(flow.log_prob(x, c), torch.cat([flow.log_prob(row[None], c) for row in x]))


def test_samples_come_with_their_density(archives: dict[str, Any], flows: dict[str, models.Flow]) -> None:
    flow = flows["prose_small"]
    c = flow.condition(peptide(archives["prose_small"], "AA"))
    x, log_q = flow.sample(c, 16, torch.Generator().manual_seed(1))
    again, _ = flow.sample(c, 16, torch.Generator().manual_seed(1))
    assert torch.equal(x, again)
    torch.testing.assert_close(flow.log_prob(x, c), log_q, atol=1e-3, rtol=0)


def test_gradient_is_the_finite_difference(archives: dict[str, Any]) -> None:
    flow = random_flow(blocks=3)
    c = flow.condition(peptide(archives["prose_small"], "AA"))
    x = torch.randn(2, 23, 3, dtype=torch.float64)
    log_q, gradient = models.log_prob_and_gradient(flow, x, c)
    torch.testing.assert_close(log_q, flow.log_prob(x, c))
    direction, h = torch.randn_like(x), 1e-6
    difference = (flow.log_prob(x + h * direction, c) - flow.log_prob(x - h * direction, c)) / (2 * h)
    torch.testing.assert_close((gradient * direction).sum((1, 2)), difference, rtol=1e-6, atol=1e-6)


def test_the_released_size() -> None:
    with torch.device("meta"):
        flow = models.Flow(models.FlowConfig())
    assert round(sum(p.numel() for p in flow.parameters()) / 1e6, 1) == 288.1


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(archives: dict[str, Any], kind: dict[str, bool]) -> None:
    flow = random_flow(**kind).requires_grad_(True)
    c = flow.conditioning(flow.tables([peptide(archives["prose_small"], "AA")]))
    flow.log_prob(torch.randn(3, 23, 3, dtype=torch.float64), c).sum().backward()
    without = [name for name, p in flow.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not without


def test_a_new_flow_is_the_identity(archives: dict[str, Any]) -> None:
    flow = models.Flow(models.FlowConfig(channels=16, head_dim=8, blocks=2, layers_per_block=1))
    c = flow.condition(peptide(archives["prose_small"], "AA"))
    x = torch.randn(2, 23, 3)
    z, logdet = flow(x, c)
    assert torch.equal(z, x)
    assert (logdet == 0).all()


def test_a_peptide_without_encodings_is_refused(flows: dict[str, models.Flow], archives: dict[str, Any]) -> None:
    capped = peptide(archives["prose_small"], "nothing")
    with pytest.raises(ValueError, match="single-system"):
        flows["prose_small"].condition(capped)
