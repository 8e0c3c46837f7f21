"""Gradients: with respect to coordinates without keeping any for parameters; activation checkpointing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from boltzray import models
from boltzray.models.layers import CPU_EXPLICIT_ATTENTION, causal_attention
from golden_flows import lone_peptide, peptide, random_flow

KINDS: list[dict[str, Any]] = [
    {"adaptive": True, "lookahead": True},
    {"adaptive": False, "lookahead": False},
    {"adaptive": False, "lookahead": False, "system": "ACE-A-NME", "system_atoms": 22, "token": "coordinate"},
]


def peptides_of(flow: models.Flow, archives: dict[str, Any]) -> list[Any]:
    if flow.config.system:
        return [lone_peptide("ACE-A-NME", 22)]
    return [peptide(archives["prose_small"], s) for s in ("AA", "GP")]


def batch(flow: models.Flow, archives: dict[str, Any]) -> tuple[Tensor, models.PeptideTables]:
    tables = flow.tables(peptides_of(flow, archives))
    x = torch.randn(len(tables.n_atoms), int(tables.n_atoms.max()), 3, dtype=torch.float64)
    real = torch.arange(x.shape[1]) < tables.n_atoms[:, None]
    return x * real[..., None], tables


def kept_bytes(action: Callable[[], Any]) -> int:
    """Bytes that autograd keeps for the backward pass of `action`, parameters and input included."""
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = action()
    del result
    return sum(kept.values())


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_the_finite_difference(archives: dict[str, Any], kind: dict[str, Any]) -> None:
    flow = random_flow(**kind, blocks=3)
    known = peptides_of(flow, archives)[0]
    c = flow.condition(known)
    x = torch.randn(2, int(c.n_atoms), 3, dtype=torch.float64)
    log_q, gradient = models.log_prob_and_gradient(flow, x, c)
    torch.testing.assert_close(log_q, flow.log_prob(x, c))
    direction, h = torch.randn_like(x), 1e-6
    difference = (flow.log_prob(x + h * direction, c) - flow.log_prob(x - h * direction, c)) / (2 * h)
    torch.testing.assert_close((gradient * direction).sum((1, 2)), difference, rtol=1e-6, atol=1e-6)


def test_parameters_cost_a_gradient_in_coordinates_nothing(archives: dict[str, Any]) -> None:
    flow = random_flow(blocks=2).requires_grad_(True)
    c = flow.condition(peptides_of(flow, archives)[0])
    x = torch.randn(64, 23, 3, dtype=torch.float64)
    trained = kept_bytes(lambda: flow.log_prob(x.requires_grad_(), c))
    lean = kept_bytes(lambda: models.log_prob_and_gradient(flow, x, c))
    assert lean < 0.8 * trained
    assert all(p.grad is None and p.requires_grad for p in flow.parameters())
    flow.requires_grad_(False)
    assert kept_bytes(lambda: models.log_prob_and_gradient(flow, x, c)) == lean
    assert not any(p.requires_grad for p in flow.parameters())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_changes_no_value(archives: dict[str, Any], kind: dict[str, Any], autocast: bool) -> None:
    flow = random_flow(**kind).requires_grad_(True)
    x, tables = batch(flow, archives)
    if autocast:
        flow, x = flow.float(), x.float()
    results = []
    for flow.activation_checkpointing in (False, True):
        flow.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            log_q = flow.log_prob(x, flow.conditioning(tables))
        log_q.sum().backward()
        results.append([log_q.detach(), *(p.grad for p in flow.parameters())])
    plain, checkpointed = results
    assert torch.equal(plain[0], checkpointed[0])
    # The layers' gradients with respect to a shared condition are summed in another order.
    tolerance = {"atol": 2e-2, "rtol": 2e-2} if autocast else {"atol": 1e-10, "rtol": 1e-10}
    for one, two in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(one, two, **tolerance)


def test_checkpointing_keeps_less_and_leaves_sampling_alone(archives: dict[str, Any]) -> None:
    flow = random_flow(layers_per_block=4).requires_grad_(True)
    x, tables = batch(flow, archives)
    without = kept_bytes(lambda: flow.log_prob(x, flow.conditioning(tables)))
    flow.activation_checkpointing = True
    assert kept_bytes(lambda: flow.log_prob(x, flow.conditioning(tables))) < 0.5 * without
    known = peptides_of(flow, archives)[0]
    drawn, _ = flow.sample(flow.condition(known), 2, torch.Generator().manual_seed(0))
    assert torch.isfinite(drawn).all()


@pytest.mark.parametrize("n", [1, 7, CPU_EXPLICIT_ATTENTION, CPU_EXPLICIT_ATTENTION + 1])
def test_causal_attention_is_what_a_mask_gives(n: int) -> None:
    q, k, v = torch.randn(3, 2, 4, n, 8, dtype=torch.float64)
    scores = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf)
    torch.testing.assert_close(causal_attention(q, k, v), scores.softmax(-1) @ v, atol=1e-12, rtol=0)
