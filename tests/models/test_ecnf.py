"""ECNF: golden vectors, exact divergence and density, symmetries, and results that no batch changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from boltzray import models
from boltzray.models.config import GraphConfig
from boltzray.models.ecnf import ECNF, flow_matching
from boltzray.models.ecnf import _draws as ecnf_draws
from boltzray.models.flow import normal_log_density
from boltzray.models.graph_network import GraphLayer
from boltzray.models.ode import MOST_STEPS, integrate
from boltzray.molecules import Peptide
from boltzray.runtime.config import parse
from boltzray.samplers import snis
from golden_flows import GOLDEN, lone_peptide, peptide

ALANINE = "Ace-A-Nme"
SIZES = {  # parameters, as published
    "ecnf": 1_062_486,
    "ecnf_plus_plus": 4_191_835,
    "ecnf_plus_plus_ace_a_nme": 2_316_827,
    "ecnf_plus_plus_aaaaaa": 2_338_373,
}


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    return {"AA": np.load(GOLDEN / "ecnf_small.npz"), ALANINE: np.load(GOLDEN / "ecnf_single_small.npz")}


def given(vectors: dict[str, Any], key: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(vectors[ALANINE if key.startswith(ALANINE) else "AA"][key]).to(dtype)


def load(name: str, dtype: torch.dtype = torch.float32, tolerance: float = 1e-4) -> ECNF:
    single = name == ALANINE
    flow = models.load(GOLDEN / f"{'ecnf_single_small' if single else 'ecnf_small'}.pth", scale_nm=0.28)
    assert isinstance(flow, ECNF)
    flow.graph = replace(flow.graph, tolerance=tolerance)
    return flow.to(dtype).requires_grad_(False)


def known(vectors: dict[str, Any], name: str) -> Any:
    return lone_peptide(name, 22) if name == ALANINE else peptide(vectors["AA"], name)


def small(single: int = 0, **graph: Any) -> ECNF:
    """A float64 flow away from its initial value, transferable or of a `single` system of so many atoms."""
    torch.manual_seed(0)
    size: dict[str, Any] = {"channels": 8, "layers_per_block": 3, "system": "X" * bool(single), "system_atoms": single}
    flow = models.Flow(models.FlowConfig(**size, graph=GraphConfig(**graph)), 0.17)
    assert isinstance(flow, ECNF)
    with torch.no_grad():
        for layer in flow.network.layers:
            assert isinstance(layer, GraphLayer)
            layer.coord_mlp[2].weight.normal_(std=0.1)  # type: ignore[operator, union-attr]
    return flow.double().requires_grad_(False).eval()


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", ["AA", "ARIP", ALANINE])
def test_golden_velocity_and_divergence(vectors: dict[str, Any], name: str) -> None:
    flow = load(name)
    c = flow.condition(known(vectors, name))
    t, x = given(vectors, f"{name}/t"), given(vectors, f"{name}/xt")
    v = flow.velocity(t, x, c)
    # Of 13 at most: float32 rounds the vectors themselves by 2e-5 there.
    torch.testing.assert_close(v, given(vectors, f"{name}/v"), atol=1e-5, rtol=1e-6)
    loss = flow_matching(v, given(vectors, f"{name}/x0"), given(vectors, f"{name}/x1"))
    torch.testing.assert_close(loss, given(vectors, f"{name}/loss"), atol=1e-4, rtol=2e-7)
    want = given(vectors, f"{name}/divergence", torch.float64)
    found = flow.divergence(t, x, c).double()
    torch.testing.assert_close(found, want, atol=3e-4 if name == "ARIP" else 1e-4, rtol=0)
    exact = load(name, torch.float64)
    torch.testing.assert_close(exact.divergence(t.double(), x.double(), exact.condition(known(vectors, name))), want)


@pytest.mark.parametrize("name", ["AA", ALANINE])
@pytest.mark.parametrize(("tolerance", "close"), [(1e-4, 1e-4), (1e-6, 1e-5)])
def test_golden_log_q(vectors: dict[str, Any], name: str, tolerance: float, close: float) -> None:
    """In float32, as it is used; the vectors have a tolerance of 1e-9 (single system 1e-7) and float64."""
    flow = load(name, tolerance=tolerance)
    c = flow.condition(known(vectors, name))
    x = given(vectors, f"{name}/x1")[:2]
    z, logdet = flow(x, c)
    torch.testing.assert_close(z, given(vectors, f"{name}/z"), atol=close, rtol=0)
    log_q = given(vectors, f"{name}/log_q")
    torch.testing.assert_close(flow.log_prob(x, c), log_q, atol=1e-4, rtol=0)
    torch.testing.assert_close(logdet, log_q - normal_log_density(z), atol=1e-4, rtol=0)
    x, log_q = flow.push(given(vectors, f"{name}/x0")[:2], c)
    torch.testing.assert_close(x.clone(), given(vectors, f"{name}/generated_x"), atol=close, rtol=0)
    torch.testing.assert_close(log_q.clone(), given(vectors, f"{name}/generated_log_q"), atol=1e-4, rtol=0)


def test_golden_loss_and_gradient_of_a_padded_batch(vectors: dict[str, Any]) -> None:
    names = ("AA", "DG", "ARIP")
    flow = load("AA", torch.float64)
    trained = [p for name, p in flow.named_parameters() if "embedding_out" not in name and "2.node_mlp" not in name]
    for parameter in trained:
        parameter.requires_grad_(True)
    c = flow.conditioning(flow.tables([known(vectors, name) for name in names]))
    ends = torch.zeros(2, 3, 73, 3, dtype=torch.float64)
    for end, key in zip(ends, ("x0", "x1"), strict=True):
        for row, name in zip(end, names, strict=True):
            frame = given(vectors, f"{name}/{key}", torch.float64)[0]
            row[: len(frame)] = frame
    ends = ends[:, :, :70]  # the vectors are padded further than ours
    x0, x1 = ends
    squares = flow_matching(flow.velocity(0.1, 0.9 * x0 + 0.1 * x1, c), x0, x1)
    torch.testing.assert_close(squares.float(), given(vectors, "batch_loss"), atol=1e-4, rtol=1e-6)
    loss = (squares / (3 * c.n_atoms)).mean()
    torch.testing.assert_close(loss.detach(), given(vectors, "loss", torch.float64), atol=1e-4, rtol=0)
    gradients = torch.autograd.grad(loss, trained)
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    torch.testing.assert_close(norm, given(vectors, "grad_norm", torch.float64), atol=1e-4, rtol=1e-6)


def test_divergence_is_the_trace_of_the_jacobian() -> None:
    flow = small()
    c = flow.conditioning(flow.tables([Peptide.from_sequence(s) for s in ("GG", "AG")]))
    x, t = normal(2, flow.atoms(c), 3), torch.tensor([0.2, 0.7], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda y: flow.velocity(t, y, c), x, vectorize=True)
    trace = torch.stack([jacobian[b, :, :, b].reshape(x[b].numel(), -1).trace() for b in range(2)])
    assert trace.abs().min() > 0.1
    torch.testing.assert_close(flow.divergence(t, x, c), trace, atol=1e-11, rtol=1e-12)


def test_density_is_that_of_the_map() -> None:
    """On all of R^{3N}, the centre of mass included: log|det ∂z/∂x| against the Jacobian of the whole ODE."""
    flow = small(tolerance=1e-7, single=4)
    c, x = flow.condition(lone_peptide("X", 4)), normal(1, 4, 3) + 0.3
    z, logdet = flow(x, c)
    assert abs(float(logdet)) > 0.1
    step = 1e-3 * torch.eye(12, dtype=torch.float64).view(12, 4, 3)
    jacobian = ((flow(x + step, c)[0] - flow(x - step, c)[0]) / 2e-3).flatten(1)
    torch.testing.assert_close(logdet[0], torch.linalg.slogdet(jacobian).logabsdet, atol=1e-4, rtol=0)
    torch.testing.assert_close(z.mean(1), x.mean(1), atol=1e-12, rtol=0)
    back, inverse = flow.inverse(z, c)
    torch.testing.assert_close(back, x, atol=3e-7, rtol=0)
    torch.testing.assert_close(inverse, -logdet, atol=1e-5, rtol=0)
    far = flow.log_prob(x + 2.0, c) - flow.log_prob(x, c)
    centres = [-4 / 2 * (x.mean(1) + shift).square().sum(1) for shift in (2.0, 0.0)]
    torch.testing.assert_close(far, centres[0] - centres[1], atol=1e-9, rtol=0)


def test_draws_come_with_their_density_at_any_temperature() -> None:
    flow = small(tolerance=1e-7, single=4)
    c, z = flow.condition(lone_peptide("X", 4)), normal(2, 4, 3)
    for ratio in (1.0, 1.5):
        x, log_q = (part.clone() for part in flow.push(z, c, temperature_ratio=ratio))
        torch.testing.assert_close(flow.log_prob(x, c, ratio), log_q, atol=1e-5, rtol=0)
    once, again = (flow.sample(c, 2, torch.Generator().manual_seed(1)) for _ in range(2))
    torch.testing.assert_close(once, again, atol=0, rtol=0)
    with pytest.raises(ValueError, match="draw_precision=float32"):
        flow.push(z, c, "bf16")


def test_symmetries() -> None:
    """Rotations, mirrors, shifts, and exchanges of atoms of one kind."""
    flow = small(tolerance=1e-6)
    gg = Peptide.from_sequence("GG")
    c, x = flow.condition(gg), normal(2, 17, 3)
    v, log_q = flow.velocity(0.4, x, c), flow.log_prob(x, c)
    turn = torch.linalg.qr(normal(3, 3)).Q
    for q in (turn, -turn):
        torch.testing.assert_close(flow.velocity(0.4, x @ q.T, c), v @ q.T, atol=1e-12, rtol=0)
        torch.testing.assert_close(flow.log_prob(x @ q.T, c), log_q, atol=1e-5, rtol=0)
    torch.testing.assert_close(flow.velocity(0.4, x + 3.0, c), v, atol=1e-11, rtol=0)
    torch.testing.assert_close(v.mean(1), torch.zeros(2, 3, dtype=torch.float64), atol=1e-14, rtol=0)
    kinds = [tuple(gg.encodings[k][i] for k in ("atom_type", "aa_pos")) for i in range(17)]
    i, j = next((i, j) for i in range(17) for j in range(i) if kinds[i] == kinds[j])
    swap = torch.arange(17)
    swap[[i, j]] = swap[[j, i]]
    torch.testing.assert_close(flow.velocity(0.4, x[:, swap], c), v[:, swap], atol=1e-12, rtol=0)
    other = next(k for k in range(17) if kinds[k] != kinds[i])
    swap = torch.arange(17)
    swap[[i, other]] = swap[[other, i]]
    assert (flow.velocity(0.4, x[:, swap], c) - v[:, swap]).abs().max() > 1e-3


def test_a_sample_does_not_depend_on_its_batch(vectors: dict[str, Any]) -> None:
    """The same bits, alone or among others, one of which needs other steps."""
    flow = load("AA")
    c = flow.condition(known(vectors, "AA"))
    z = normal(4, 23, 3).float()
    z[2] *= 2.5
    x, log_q = flow.push(z, c)
    for row in (0, 3):
        alone, log_alone = flow.push(z[row : row + 1], c)
        assert torch.equal(alone[0], x[row])
        assert torch.equal(log_alone[0], log_q[row])
    assert torch.equal(flow.log_prob(x, c)[1:2], flow.log_prob(x[1:2], c))


def test_a_path_of_too_many_steps_is_lost_and_ends() -> None:
    """dx/dt = −r x is stable in steps of 3.3/r: so many that the row is given up; the other one is solved."""
    rate = torch.tensor([2.0, 5e4], dtype=torch.float64)
    calls = 0

    def velocity(t: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return -rate[rows, None, None] * x

    x = torch.ones(2, 1, 3, dtype=torch.float64)
    freedom = torch.full((2,), 3.0, dtype=torch.float64)
    path = integrate(velocity, lambda t, x, rows: -rate[rows] * 3, x, freedom, 1e-6)
    torch.testing.assert_close(path.x[0], torch.full_like(x[0], np.exp(-2.0)), rtol=0, atol=1e-6)
    torch.testing.assert_close(path.integral[0], torch.tensor(-6.0, dtype=torch.float64))
    assert path.x[1].isnan().all()
    assert path.integral[1].isnan()
    assert path.steps[1] == MOST_STEPS
    assert path.steps[0] < 100
    assert calls <= 6 * MOST_STEPS + 1


def test_a_lost_path_is_a_failed_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = small(tolerance=1e-5)
    c, z = flow.condition(Peptide.from_sequence("GG")), normal(3, 17, 3)
    z[1] *= 4  # it needs more steps
    calm = [integrate(*flow._rows(c, 0), row[None], flow._freedom(c, z, 0, 1), 1e-5).steps for row in z]
    monkeypatch.setattr("boltzray.models.ode.MOST_STEPS", int(torch.cat(calm).max()) - 1)
    assert calm[1] > max(calm[0], calm[2])
    x, log_q = flow.push(z, c)
    assert log_q.isnan().tolist() == [False, True, False]
    assert x[1].isnan().all()
    result = snis(None, log_q, np.zeros(3), "none")
    assert result.n_failed == 1


def test_padding_changes_nothing() -> None:
    flow = small(tolerance=1e-5)
    peptides = [Peptide.from_sequence(s) for s in ("GG", "AG")]
    together = flow.conditioning(flow.tables(peptides))
    x = torch.zeros(2, flow.atoms(together), 3, dtype=torch.float64)
    for row, one in zip(x, peptides, strict=True):
        row[: one.n_atoms] = normal(one.n_atoms, 3)
    z, logdet = flow(x, together)
    t = torch.tensor(0.3, dtype=torch.float64)
    for i, one in enumerate(peptides):
        n, c = one.n_atoms, flow.condition(one)
        row = x[i : i + 1, :n]
        assert (z[i, n:] == 0).all()
        alone, alone_logdet = flow(row, c)
        torch.testing.assert_close(z[i : i + 1, :n], alone, atol=1e-9, rtol=0)
        torch.testing.assert_close(logdet[i : i + 1], alone_logdet, atol=1e-9, rtol=0)
        v, div = flow.velocity(t, x, together), flow.divergence(t, x, together)
        torch.testing.assert_close(v[i : i + 1, :n], flow.velocity(t, row, c), atol=1e-13, rtol=0)
        torch.testing.assert_close(div[i : i + 1], flow.divergence(t, row, c), atol=1e-11, rtol=0)
        loss = flow.log_likelihood(x, together)[i : i + 1]
        torch.testing.assert_close(loss, flow.log_likelihood(row, c), atol=1e-11, rtol=0)


def test_random_numbers_of_a_frame_do_not_depend_on_its_padding() -> None:
    """To the last bit, in float32, where sums over atoms are rounded by their number."""
    flow, peptides = small(noise=0.01).float(), [Peptide.from_sequence(s) for s in ("AA", "WWWW")]
    x = normal(200, 23, 3).float()
    padded = torch.cat([x, torch.zeros(200, peptides[1].n_atoms - 23, 3)], 1)
    assert not torch.equal(x.sum(1), padded.sum(1))
    alone, wide = ecnf_draws(x[:, 0].numpy(), 23), ecnf_draws(padded[:, 0].numpy(), padded.shape[1])
    assert torch.equal(alone[0], wide[0])
    assert len(alone[0].unique()) == 200
    for one, other in zip(alone[1:], wide[1:], strict=True):
        assert torch.equal(one, other[:, :23])
    c, together = flow.condition(peptides[0]), flow.conditioning(flow.tables(peptides))
    for row in range(20):
        frame = torch.zeros(2, padded.shape[1], 3)
        frame[0] = padded[row]
        found = flow.log_likelihood(frame, together)[:1]
        torch.testing.assert_close(found, flow.log_likelihood(x[row : row + 1], c), rtol=1e-5, atol=0)


def test_every_parameter_that_acts_learns() -> None:
    """And recomputed activations give the same gradients."""
    x, norms = normal(3, 17, 3).float(), []
    for recompute in (False, True):
        torch.manual_seed(1)
        flow = models.Flow(models.FlowConfig(channels=8, layers_per_block=2, graph=GraphConfig(noise=0.01)), 0.17)
        flow.activation_checkpointing = recompute
        (-flow.log_likelihood(x, flow.conditioning(flow.tables([Peptide.from_sequence("GG")]))).sum()).backward()
        norms.append(learned(flow))
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def learned(flow: models.Flow) -> float:
    """Norm of the gradient, of which every parameter that acts has some."""
    learning = {name: p.grad for name, p in flow.named_parameters() if p.requires_grad}
    assert {name for name, _ in flow.named_parameters()} - learning.keys() == {
        f"network.{part}.{kind}"
        for part in ("embedding_out", "layers.1.node_mlp.0", "layers.1.node_mlp.2")
        for kind in ("weight", "bias")
    }
    for name, gradient in learning.items():
        assert gradient is not None, name
        assert gradient.abs().max() > 0, name
    return float(torch.stack([g.norm() for g in learning.values() if g is not None]).norm())


def test_flow_matching_learns_a_normal_density() -> None:
    """Data from N(0, s² I) less the mean: the flow's log q becomes that density, in all 3N coordinates."""
    torch.manual_seed(0)
    scale, atoms = 0.5, 4
    config = models.FlowConfig(
        channels=16, layers_per_block=2, system="X", system_atoms=atoms, graph=GraphConfig(atom_types=(0,) * atoms)
    )
    flow = models.Flow(config, 0.1)
    assert isinstance(flow, ECNF)
    only = flow.tables([lone_peptide("X", atoms)])
    optimizer = torch.optim.Adam([p for p in flow.parameters() if p.requires_grad], lr=5e-3)
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 150)
        x = scale * torch.randn(128, atoms, 3)
        x = x - x.mean(1, keepdim=True) + torch.randn(128, 1, 3) / atoms**0.5
        loss = -flow.log_likelihood(x, flow.conditioning(only)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    flow.requires_grad_(False)
    x, log_q = flow.sample(flow.condition(lone_peptide("X", atoms)), 60, torch.Generator().manual_seed(2))
    centre = x.mean(1, keepdim=True)
    inner = -0.5 * ((x - centre) / scale).square().sum((1, 2)) - (3 * atoms - 3) * np.log(scale)
    log_p = inner - 0.5 * atoms * centre.square().sum((1, 2)) - 1.5 * atoms * np.log(2 * np.pi)
    log_w = (log_p - log_q).double().numpy()
    weight = np.exp(log_w)
    error = weight.std() / np.sqrt(len(weight)) / weight.mean()
    assert error < 0.1
    assert abs(np.log(weight.mean())) < 5 * error  # log Z is 0: both are densities on R^{3N}


def test_other_sizes_round_trip(tmp_path: Path) -> None:
    flow = small(shortest=2, longest=3, tolerance=1e-3)
    models.save(flow, tmp_path / "flow", {"step": 1})
    again = models.load(tmp_path / "flow")
    assert again.config == flow.config
    c, x = again.condition(Peptide.from_sequence("GG")), normal(1, 17, 3).float()
    torch.testing.assert_close(
        again.log_prob(x, c), flow.float().log_prob(x, flow.condition(Peptide.from_sequence("GG")))
    )
    with pytest.raises(ValueError, match=r"has 4 residues, this flow takes 2 to 3 \(graph.shortest and graph.longest"):
        again.condition(Peptide.from_sequence("AAAA"))
    with pytest.raises(ValueError, match="does not know"):
        again.condition(Peptide.from_sequence("ACE-A-NME"))
    with pytest.raises(ValueError, match="sampler=snis"):
        models.log_prob_and_gradient(again, x, c)


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(root: Path, name: str) -> None:
    config = parse(models.FlowConfig, yaml.safe_load((root / "conf" / "model" / f"{name}.yaml").read_text()))
    with torch.device("meta"):
        assert sum(p.numel() for p in models.Flow(config).parameters()) == SIZES[name]
    two = replace(config, graph=replace(config.graph, longest=2))
    if name == "ecnf_plus_plus":
        with torch.device("meta"):
            assert sum(p.numel() for p in models.Flow(two).parameters()) == 4_189_270


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"graph": {"shortest": 3, "longest": 2}}, "give 1 or more, in order"),
        ({"graph": {"tolerance": 0.0}}, "tolerance must lie between"),
        ({"graph": {"atom_types": [0, 1]}}, "2 numbers for 0 atoms"),
        ({"graph": {}, "system": "AA"}, "system and system_atoms go together"),
        ({"graph": {}, "coordinates": "internal"}, "leave coordinates= out"),
        ({"graph": {"layers": 3}}, "unknown key graph.layers"),
    ],
)
def test_what_a_configuration_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(models.FlowConfig, change)
