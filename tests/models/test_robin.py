"""Robin against the public implementation's vectors, and as a density: it sums to one, and draws come with theirs."""

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from boltzray import models
from boltzray.models.bins import Bins
from boltzray.models.conditioning import Precision
from boltzray.models.pth import write_public
from boltzray.models.public import to_public, unsaid
from boltzray.models.token_decoder import cooled, draw
from boltzray.molecules import Peptide
from golden_flows import GOLDEN, lone_peptide

ROBIN = GOLDEN / "robin"
FACTS: dict[str, dict[str, Any]] = {
    "robin_small": {"bins": (-4.5, 4.5), "temperature": 0.95, "scale_nm": 0.35},
    "arbg_single_small": {"bins": (-3.0, 3.0), "temperature": 1.03, "scale_nm": 0.21},
}
CASES = [("robin_small", "AA"), ("robin_small", "ARIP"), ("arbg_single_small", "AA")]
PRECISIONS: list[Precision] = ["float32", "bf16"]


def golden_flow(name: str, **changed: Any) -> models.Flow:
    return models.load(ROBIN / f"{name}.pth", **(FACTS[name] | {"head_dim": 16, "atom_order": "file"} | changed))


def vectors(name: str, sequence: str) -> dict[str, torch.Tensor]:
    archive = np.load(ROBIN / f"{name}.npz")
    return {key.split("/", 1)[1]: torch.from_numpy(archive[key]) for key in archive if key.startswith(f"{sequence}/")}


def stored_peptide(sequence: str) -> Peptide:
    return Peptide.from_pdb(vectors("robin_small", sequence)["pdb"].numpy().tobytes().decode())


def small(**config: Any) -> models.Flow:
    """A float64 flow over few bins whose every parameter is away from its start."""
    torch.manual_seed(0)
    sizes = {"channels": 16, "head_dim": 8, "blocks": 1, "layers_per_block": 2, "bins": 32, "bin_range": (-3.0, 3.0)}
    flow = models.Flow(models.FlowConfig(coordinates="binned", **(sizes | config)))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return flow.double().requires_grad_(False).eval()


def test_bins_of_the_released_size() -> None:
    archive, bins = np.load(ROBIN / "bins_8192.npz"), Bins(8192, -4.5, 4.5)
    tokens = bins.tokens(torch.from_numpy(archive["x"]))
    np.testing.assert_array_equal(tokens, archive["tokens"])
    np.testing.assert_array_equal(bins.centers(tokens), archive["centres"])
    np.testing.assert_array_equal(bins.place(tokens, torch.from_numpy(archive["v"])), archive["x_again"])
    assert bins.width == archive["bin_width"]


@pytest.mark.parametrize("sequence", ["AA", "DG", "ARIP"])
def test_ambers_order(sequence: str) -> None:
    np.testing.assert_array_equal(stored_peptide(sequence).amber_order, vectors("robin_small", sequence)["amber_order"])


@pytest.mark.parametrize(("name", "sequence"), CASES)
def test_vectors(name: str, sequence: str) -> None:
    flow, want = golden_flow(name).requires_grad_(False), vectors(name, sequence)
    c = flow.condition(stored_peptide(sequence))
    tokens = flow.tokenize(want["x"], c)
    assert torch.equal(tokens, want["tokens"].long())
    close = {"rtol": 1e-6, "atol": 1e-4}
    torch.testing.assert_close(flow.logits(tokens[:1], c)[0], want["logits0"], rtol=0, atol=1e-5)
    torch.testing.assert_close(flow.token_log_prob(tokens, c, 1.0), want["token_log_prob"], rtol=0, atol=1e-5)
    log_prob = flow.log_prob(want["x"], c) + tokens.shape[1] * math.log(flow.bins.width)
    torch.testing.assert_close(log_prob, want["log_prob_t"].double(), **close)
    drawn = flow.sample_from_uniforms(want["u"], want["v"], c)
    assert torch.equal(drawn.tokens, want["sample_tokens"].long())
    assert torch.equal(drawn.x, want["sample_x"])
    torch.testing.assert_close(drawn.log_q, want["sample_log_density_t"], **close)


@pytest.mark.parametrize("name", FACTS)
def test_loss_and_gradient(name: str) -> None:
    flow, archive = golden_flow(name), np.load(ROBIN / f"{name}.npz")
    sequences = ("AA", "DG", "ARIP") if name == "robin_small" else ("AA",)
    frames = [torch.from_numpy(archive[f"{s}/x"]) for s in sequences]
    x = torch.zeros(len(sequences), max(f.shape[1] for f in frames), 3)
    for row, frame in zip(x, frames, strict=True):
        row[: frame.shape[1]] = frame[0]
    x = x if len(sequences) > 1 else frames[0]
    loss = flow.loss(x, flow.conditioning(flow.tables([stored_peptide(s) for s in sequences])))
    loss.backward()
    assert abs(loss.item() - archive["loss"]) < 1e-4
    norm = torch.stack([p.grad.double().square().sum() for p in flow.parameters()]).sum().sqrt()
    assert abs(norm.item() - archive["grad_norm"]) < 1e-4


@pytest.mark.parametrize("name", FACTS)
def test_weights_survive_both_ways(tmp_path: Path, name: str) -> None:
    flow, original = golden_flow(name), torch.load(ROBIN / f"{name}.pth", weights_only=True)
    back = models.load(models.save(flow, tmp_path / name))
    assert (back.config, back.scale_nm, back.atom_order) == (flow.config, flow.scale_nm, "file")
    public = to_public(back)
    assert {k for k in original if "causal_mask" not in k and ".pe" not in k} == public.keys()
    for key, value in public.items():
        assert torch.equal(value, original[key])
    with pytest.raises(ValueError, match=r"made with temperature=.*: leave out temperature=0\.5"):
        models.load(tmp_path / name, temperature=0.5)
    again = models.load(write_public(flow, tmp_path / "again.pth"), **unsaid(flow))
    assert (again.config, again.scale_nm, again.atom_order) == (flow.config, flow.scale_nm, flow.atom_order)


def test_places_are_as_many_as_the_weights_have(tmp_path: Path) -> None:
    state = torch.load(ROBIN / "robin_small.pth", weights_only=True)
    state["net.atom_pos_embed.weight"] = state["net.atom_pos_embed.weight"][:23]
    torch.save(state, tmp_path / "robin.pth")
    flow = models.load(tmp_path / "robin.pth", **FACTS["robin_small"], head_dim=16)
    assert flow.config.max_atoms == 23
    flow.condition(stored_peptide("AA"))
    with pytest.raises(ValueError, match="ARIP has 70 atoms, and this flow knows places for 23"):
        flow.condition(stored_peptide("ARIP"))


@pytest.mark.parametrize(
    ("change", "order", "message"),
    [
        ({"center": "gaussian"}, "iupac", "of a transferable Robin are of frames whose centre is zero, and this"),
        (
            {"center": "zero", "system": "XYZ", "system_atoms": 3, "max_atoms": 3},
            "file",
            "centre is gaussian, and this",
        ),
        ({"center": "zero", "orderings": ("identity",)}, "iupac", "no word for atoms in the order 'iupac'"),
    ],
)
def test_a_flow_that_public_weights_cannot_say_is_not_written(
    tmp_path: Path, change: dict[str, Any], order: Any, message: str
) -> None:
    flow = small(**change)
    flow.atom_order = order
    with pytest.raises(ValueError, match=message) as caught:
        write_public(flow, tmp_path / "flow.pth")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "flow.pth").exists()


def test_probabilities_sum_to_one() -> None:
    flow = small(bins=5, max_atoms=1, system_atoms=1, temperature=0.9)
    c = flow.condition(lone_peptide("X", 1))
    tokens = torch.tensor(list(itertools.product(range(5), repeat=3)))
    x = flow.bins.centers(tokens, torch.float64).view(-1, 1, 3)
    total = flow.log_prob(x, c).exp().sum() * flow.bins.width**3
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("orderings", [("amber",), ("identity",)])
@pytest.mark.parametrize("ratio", [1.0, 1.3])
def test_draws_come_with_their_density(orderings: tuple[str], ratio: float) -> None:
    flow, peptide = small(orderings=orderings, temperature=0.8), stored_peptide("ARIP").iupac()
    c = flow.condition(peptide)
    noise = torch.from_numpy(flow.noise(np.random.default_rng(3), 6, peptide.n_atoms))
    drawn = flow.draw(noise, c, temperature_ratio=ratio)
    assert torch.equal(flow.tokenize(drawn.x, c), drawn.tokens)
    torch.testing.assert_close(flow.log_prob(drawn.x, c, ratio), drawn.log_q, rtol=0, atol=1e-9)
    alone = flow.draw(noise[2:3], c, temperature_ratio=ratio)
    assert torch.equal(alone.x[0], drawn.x[2])
    torch.testing.assert_close(alone.log_q[0], drawn.log_q[2], rtol=0, atol=1e-9)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_log_q_is_that_of_the_probabilities_drawn_from(precision: Precision) -> None:
    """Go through the first coordinate's uniforms: bins come as often as their log-probability says, in bf16 too."""
    flow = small(bins=7, max_atoms=1, system_atoms=1).float()
    c, n = flow.condition(lone_peptide("X", 1)), 20_000
    u = torch.full((n, 3), 0.5, dtype=torch.float64)
    u[:, 2] = (torch.arange(n) + 0.5) / n
    tokens, log_q = (flow.sample_from_uniforms(u, u, c, precision)[i] for i in (3, 1))
    assert len(tokens[:, :2].unique(dim=0)) == 1
    found = [log_q[tokens[:, 2] == k] for k in tokens[:, 2].unique()]
    typical = torch.stack([own.median() for own in found])  # a few rows of a batch may be rounded otherwise
    assert len(found) > 3
    shares = torch.tensor([len(own) / n for own in found], dtype=torch.float64)
    torch.testing.assert_close(typical.softmax(0), shares, rtol=0, atol=4 / n)


def test_temperature_one_leaves_the_bits_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(3, 5)
    assert cooled(logits, 1.0) is logits
    torch.testing.assert_close(cooled(logits, 0.5), 2 * logits, rtol=0, atol=0)
    flow = golden_flow("robin_small").requires_grad_(False)
    c, tokens = flow.condition(stored_peptide("AA")), torch.randint(256, (2, 69))
    want = flow.logits(tokens, c).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(flow.token_log_prob(tokens, c, 1.0), want, rtol=0, atol=0)


def test_an_outline_needs_no_compiler() -> None:
    """torch makes normal numbers of tensors without memory with sympy and its compiler: seconds, and none where Python
    has no headers."""
    lines = [
        "import sys",
        "from boltzray.models import checkpoint",
        "heavy = {'sympy', 'torch._dynamo', 'torch._inductor', 'torch.fx.experimental.symbolic_shapes', 'triton'}",
        "before = set(sys.modules)",
        f"flow = checkpoint.load({str(ROBIN / 'robin_small.pth')!r}, **{FACTS['robin_small'] | {'head_dim': 16}},"
        " mapped=True)",
        "assert flow.to('meta').network.token.weight.is_meta",
        "assert not heavy & (set(sys.modules) - before), heavy & set(sys.modules)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, env=os.environ | {"CXX": "nothing"}
    )
    assert done.returncode == 0, done.stderr


def test_a_bin_without_probability_is_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    for u, want in ((0.0, 1), (0.499, 1), (0.5, 3), (math.nextafter(1.0, 0.0), 3)):
        token, log_prob = draw(logits, torch.tensor([u], dtype=torch.float64), 1.0)
        assert int(token) == want
        assert float(log_prob) == pytest.approx(math.log(0.5))


def test_padded_equals_unpadded() -> None:
    flow, peptides = small(), [stored_peptide(s).iupac() for s in ("AA", "DG", "ARIP")]
    together = flow.conditioning(flow.tables(peptides))
    x = torch.zeros(3, 70, 3, dtype=torch.float64)
    for row, peptide in zip(x, peptides, strict=True):
        row[: peptide.n_atoms] = torch.randn(peptide.n_atoms, 3, dtype=torch.float64)
    alone = [flow.log_prob(x[i : i + 1, : p.n_atoms], flow.condition(p)) for i, p in enumerate(peptides)]
    torch.testing.assert_close(flow.log_prob(x, together), torch.cat(alone), rtol=0, atol=1e-10)


def test_atoms_go_to_ambers_order_and_back() -> None:
    """What the network sees are the atoms in AMBER's order; what comes and goes is in the order of the peptide."""
    peptide = stored_peptide("ARIP").iupac()
    amber, plain = small(orderings=("amber",)), small(orderings=("identity",))
    names = [f"{atom.residue.index}{atom.name}" for atom in peptide.topology.atoms()]
    order = peptide.amber_order
    first, last = "N H H2 H3 CA HA CB HB1 HB2 HB3 C O", "N CD HD2 HD3 CG HG2 HG3"
    visited_names = " ".join(names[i] for i in order)
    assert visited_names.startswith("0" + first.replace(" ", " 0"))
    assert "3" + last.replace(" ", " 3") in visited_names
    x = torch.randn(2, peptide.n_atoms, 3, dtype=torch.float64)
    given = amber.condition(peptide)
    reordered = {k: v[order] if len(v) > 1 else v for k, v in peptide.encodings.items()}
    visited = plain.condition(SimpleNamespace(sequence="ARIP", encodings=reordered, orderings={}))
    torch.testing.assert_close(amber.log_prob(x, given), plain.log_prob(x[:, order], visited), rtol=0, atol=1e-10)
    noise = torch.from_numpy(amber.noise(np.random.default_rng(0), 2, 70))
    torch.testing.assert_close(amber.draw(noise, given).x[:, order], plain.draw(noise, visited).x, rtol=0, atol=0)


def test_activation_checkpointing_changes_nothing() -> None:
    flow = small().requires_grad_(True)
    x, tables = torch.randn(2, 23, 3, dtype=torch.float64), flow.tables([stored_peptide("AA")])
    gradients = []
    for flow.activation_checkpointing in (False, True):
        flow.zero_grad()
        flow.log_likelihood(x, flow.conditioning(tables)).sum().backward()
        gradients.append([p.grad.clone() for p in flow.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("name", "count"),
    [("robin", 131_982_336), ("robin_aaa", 8_400_128), ("robin_aaaaaa", 10_504_960), ("robin_gydpetgtwg", 46_222_336)],
)
def test_published_sizes(root: Path, name: str, count: int) -> None:
    settings = yaml.safe_load((root / "conf" / "model" / f"{name}.yaml").read_text())
    lists = {key: tuple(value) for key, value in settings.items() if isinstance(value, list)}
    with torch.device("meta"):
        flow = models.Flow(models.FlowConfig(**settings | lists))
    assert sum(p.numel() for p in flow.parameters()) == count


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"bins": None}, r"does not say its bins: give bins=\(-4.5, 4.5\)"),
    ({"bins": None, "temperature": None}, "its bins and temperature"),
    ({"head_dim": 7}, "multiple of head_dim"),
    ({"atom_order": "pdb"}, "choose amber or file"),
    ({"scale_nm": 300.0}, "no length of a molecule"),
]


@pytest.mark.parametrize(("changed", "message"), REFUSED)
def test_missing_facts_are_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        golden_flow("robin_small", **changed)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="how lengths were scaled: give scale_nm="):
        golden_flow("arbg_single_small", scale_nm=None)
    with pytest.raises(ValueError, match="no flow over bins: leave bins="):
        models.load(GOLDEN / "prose_small.pth", head_dim=16, bins=(-4.5, 4.5))


def test_peptides_that_it_cannot_take_are_one_line() -> None:
    flow = small(max_atoms=40)
    with pytest.raises(ValueError, match="ARIP has 70 atoms, and this flow knows places for 40"):
        flow.condition(stored_peptide("ARIP"))
    with pytest.raises(ValueError, match="without caps"):
        flow.condition(Peptide.from_pdb(GOLDEN / "ace_a_nme.pdb"))
    with pytest.raises(ValueError, match=r"does not name \(23 atoms\) alone, not ARIP"):
        golden_flow("arbg_single_small").condition(stored_peptide("ARIP"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bins": 1}, "give 2 to"),
        ({"bin_range": (1.0, -1.0)}, "a range such as"),
        ({"temperature": 0.0}, "must be above 0"),
        ({"center": "mass"}, "choose gaussian or zero"),
        ({"orderings": ("n2c_backbone-first_standard",)}, "amber or identity|identity"),
        ({"blocks": 2}, "set blocks=1"),
        ({"system": "AAA"}, "give system_atoms="),
        ({"system_atoms": 33}, "max_atoms="),
    ],
)
def test_configurations_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.FlowConfig(**({"coordinates": "binned", "blocks": 1} | change))
