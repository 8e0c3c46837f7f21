"""Prose and TarFlow: equal to the golden vectors, of the published size, and what they refuse."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from boltzray import models
from golden_flows import GOLDEN, peptide

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


def test_the_released_size() -> None:
    with torch.device("meta"):
        flow = models.Flow(models.FlowConfig())
    assert round(sum(p.numel() for p in flow.parameters()) / 1e6, 1) == 288.1


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


def test_coordinates_of_another_size_are_refused(flows: dict[str, models.Flow], archives: dict[str, Any]) -> None:
    flow = flows["prose_small"]
    c = flow.condition(peptide(archives["prose_small"], "AA"))
    for wrong in (torch.zeros(2, 22, 3), torch.zeros(2, 24, 3), torch.zeros(2, 69)):
        with pytest.raises(ValueError, match=r"give \(B, 23, 3\)"):
            flow(wrong, c)
        with pytest.raises(ValueError, match=r"give \(B, 23, 3\)"):
            flow.inverse(wrong, c)
