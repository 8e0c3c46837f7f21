"""Objectives against closed forms on Gaussians and finite differences on flows; where q = π; and where they lead."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from boltzray.models import parts
from boltzray.models.losses import OBJECTIVES, ObjectiveConfig, TermBatch, term
from boltzray.models.parts import Parts
from boltzray.models.pathwise import FlowModel, pathwise
from boltzray.molecules.peptide import Peptide
from golden_flows import random_flow

N = 400_000
PLAIN = ObjectiveConfig(tail=1e6)


class Gaussian(torch.nn.Module):
    """x = m + s·z in every coordinate; the target is N(0, 1)."""

    def __init__(self, mean: float, scale: float) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(scale), dtype=torch.float64))

    def log_prob(self, x: Tensor) -> Tensor:
        z = (x - self.mean) * (-self.log_scale).exp()
        return (-0.5 * z * z - self.log_scale - 0.5 * math.log(2 * math.pi)).sum((1, 2))

    def log_prob_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        leaf = x.detach().requires_grad_()
        frozen = copy.deepcopy(self).requires_grad_(False)
        log_q = frozen.log_prob(leaf)
        (gradient,) = torch.autograd.grad(log_q.sum(), leaf)
        return log_q.detach(), gradient

    def pathwise(self, x: Tensor, cotangent: Tensor) -> Tensor:
        z = ((x - self.mean) * (-self.log_scale).exp()).detach()
        return (cotangent * (self.mean + self.log_scale.exp() * z)).sum()

    def draw(self, n: int, seed: int, dof: int = 1) -> Tensor:
        z = torch.randn((n, 1, dof), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (self.mean + self.log_scale.exp() * z).detach()

    def gradient(self, loss: Tensor) -> tuple[float, float]:
        self.zero_grad()
        loss.backward()
        return tuple(float(0.0 if p.grad is None else p.grad) for p in (self.mean, self.log_scale))  # type: ignore


LOG_Z = 3.0  # densities of real molecules have one: no loss may need to know it


def target(x: Tensor) -> Tensor:
    return Gaussian(0.0, 1.0).log_prob(x).detach() + LOG_Z


def batch(name: str, drawn_from: Gaussian, n: int, seed: int = 0, dof: int = 1) -> TermBatch:
    """Rows of a buffer of `drawn_from`, as an objective reads them."""
    x = drawn_from.draw(n, seed, dof)
    log_q, log_p = drawn_from.log_prob(x).detach(), target(x)
    weight = (OBJECTIVES[name].power * (log_p - log_q)).exp()
    made = TermBatch(x, weight / weight.mean(), log_p, log_q, None, -x)
    if OBJECTIVES[name].reads in ("resampled", "data"):
        chosen = torch.multinomial(weight, n, replacement=True, generator=torch.Generator().manual_seed(seed))
        return TermBatch(x[chosen], None, log_p[chosen], log_q[chosen])
    return made if OBJECTIVES[name].reads == "weighted" else made._replace(weight=None)


M, S = 0.3, 1.3
FORWARD = (M / S**2, 1 - (1 + M * M) / S**2)  # of E_p[−log q]
REVERSE = (M, S * S - 1)  # of KL(q‖p)


@pytest.mark.parametrize(
    ("name", "drawn_from", "expected"),
    [
        ("self_improve", (0.0, 1.5), FORWARD),
        ("forward_kl", (0.0, 1.5), FORWARD),
        ("anneal", (M, S), FORWARD),
        ("real_data", (0.0, 1.0), FORWARD),
        ("reverse_kl", (M, S), REVERSE),
        ("log_variance", (M, S), (2 * REVERSE[0], 2 * REVERSE[1])),  # VarGrad: on-policy, twice that of KL
    ],
)
def test_gradients_of_a_gaussian(name: str, drawn_from: tuple[float, float], expected: tuple[float, float]) -> None:
    model = Gaussian(M, S)
    loss, statistics = term(name, PLAIN, model, batch(name, Gaussian(*drawn_from), N))
    assert model.gradient(loss) == pytest.approx(expected, abs=0.02)
    assert float(statistics[name]) == float(loss.detach())


@pytest.mark.parametrize("start", [S, 1.25])
def test_gradient_of_alpha2(start: float) -> None:
    """π²/q is a Gaussian too: of precision 2 − 1/s²; a buffer of another flow is corrected."""
    model = Gaussian(0.0, S)
    loss, _ = term("alpha2", PLAIN, model, batch("alpha2", Gaussian(0.0, start), N))
    integral, of_start = (s * s / math.sqrt(2 * s * s - 1) for s in (S, start))  # ∫π²/q
    expected = (0.0, (1 - 1 / (2 * S**2 - 1)) * integral / of_start)
    assert model.gradient(loss) == pytest.approx(expected, abs=0.01)


def test_gradient_of_the_teacher() -> None:
    """½·E[(log q − log q_T)²] over x ~ N(0, 1), both Gaussians of mean 0."""
    model, teacher, x = Gaussian(0.0, S), Gaussian(0.0, 1.0), Gaussian(0.0, 1.0).draw(N, 0)
    config = ObjectiveConfig(terms={"self_improve": 1.0}, teacher=0.5)
    loss, statistics = term("self_improve", config, model, TermBatch(x, log_teacher=teacher.log_prob(x).detach()))
    a, c = (1 - 1 / S**2) / 2, math.log(S)  # the difference is a·x² − c
    slope = 3 * a / S**2 - a - c / S**2 + c
    assert model.gradient(loss)[1] == pytest.approx(1 - 1 / S**2 + 0.5 * slope, abs=0.01)
    assert float(statistics["teacher"]) == pytest.approx(0.5 * (3 * a * a - 2 * a * c + c * c), abs=0.01)


def test_the_path_gradient_has_no_variance_at_the_optimum() -> None:
    model = Gaussian(0.0, 1.0)
    for seed in range(20):
        found = term("reverse_kl", PLAIN, model, batch("reverse_kl", model, 1, seed))[0]
        assert model.gradient(found) == pytest.approx((0.0, 0.0), abs=1e-12)
        model.zero_grad()
        x = model.draw(1, seed)
        (model.log_prob(x).sum() * 1.0).backward()  # what a plain estimator would add
        assert abs(float(model.log_scale.grad)) > 1e-3


def test_log_variance_is_zero_at_the_optimum_wherever_the_batch_comes_from() -> None:
    model = Gaussian(0.0, 1.0)
    loss, _ = term("log_variance", ObjectiveConfig(), model, batch("log_variance", Gaussian(0.5, 2.0), 1000))
    assert float(loss.detach()) < 1e-20
    assert model.gradient(loss) == pytest.approx((0.0, 0.0), abs=1e-10)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_objective_moves_a_flow_to_the_target(name: str) -> None:
    model = Gaussian(0.4, 1.4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(120):
        if step % 20 == 0:
            start = Gaussian(0.0, 1.0) if name == "real_data" else copy.deepcopy(model)
        loss, _ = term(
            name, ObjectiveConfig(), model, batch(name, model if name == "reverse_kl" else start, 500, step, 3)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(model.mean.detach()) == pytest.approx(0.0, abs=0.06)
    assert float(model.log_scale.detach()) == pytest.approx(0.0, abs=0.06)


@pytest.mark.parametrize("name", ["reverse_kl", "log_variance"])
def test_clashes_and_failures_do_not_decide(name: str) -> None:
    """One energy of 10⁸ kT and one that could not be evaluated leave the gradient what it was, nearly."""
    model = Gaussian(M, S)
    clean = batch(name, model, 1000)
    log_p, grad_p = clean.log_p.clone(), clean.grad_p.clone()
    log_p[3], grad_p[3] = -1e8, 1e9
    log_p[4], grad_p[4] = -torch.inf, torch.nan
    one = model.gradient(term(name, ObjectiveConfig(), model, clean)[0])
    two = model.gradient(term(name, ObjectiveConfig(), model, clean._replace(log_p=log_p, grad_p=grad_p))[0])
    assert two == pytest.approx(one, abs=2.0)
    assert all(map(math.isfinite, two))


# --- flows --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["internal", "cartesian"])
def subject(request: Any, root: Path) -> tuple[Any, Peptide]:
    """A small flow away from the identity, in float64, and a peptide."""
    torch.set_default_dtype(torch.float32)
    flow = random_flow(coordinates=request.param, layers_per_block=1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(0.5)
    return flow.requires_grad_(True), Peptide.from_pdb(root / "tests" / "data" / "pdbs" / "test" / "AA.pdb")


def along(flow: Any, function: Any, gradients: list[Tensor], eps: float = 1e-6) -> tuple[float, float]:
    """The derivative of function(flow) along a random direction: by central differences, and by `gradients`."""
    torch.manual_seed(3)
    direction = [torch.randn_like(p) for p in flow.parameters()]
    values = []
    for sign in (1, -1):
        moved = copy.deepcopy(flow)
        with torch.no_grad():
            for parameter, d in zip(moved.parameters(), direction, strict=True):
                parameter.add_(sign * eps * d)
        values.append(float(function(moved).detach()))
    return (values[0] - values[1]) / (2 * eps), float(
        sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    )


def gradients(flow: Any, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(flow.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, flow.parameters(), strict=True)]


def draw(flow: Any, peptide: Peptide, n: int = 3, seed: int = 2) -> Tensor:
    z = torch.randn((n, peptide.n_atoms, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return flow.push(z, flow.condition(peptide))[0].clone()


def test_pathwise_is_the_gradient_of_draws(subject: tuple[Any, Peptide]) -> None:
    flow, peptide = subject
    x = draw(flow, peptide)
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    value = pathwise(flow, x, v, flow.conditioning(flow.tables([peptide])))
    numeric, analytic = along(flow, lambda f: (draw(f, peptide) * v).sum(), gradients(flow, value))
    assert abs(numeric) > 1e-3
    assert analytic == pytest.approx(numeric, rel=1e-4)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_gradients_of_a_flow(subject: tuple[Any, Peptide], name: str) -> None:
    """By finite differences; of reverse_kl along the draws' paths, of alpha2 at fixed corrections."""
    flow, peptide = subject
    tables = flow.tables([peptide])
    x = draw(flow, peptide, 4)
    generator = torch.Generator().manual_seed(1)
    weight = torch.rand(4, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        log_q = FlowModel(flow, tables).log_prob(x)
    full = TermBatch(x, weight / weight.mean(), -0.5 * x.square().sum((1, 2)), log_q, log_q + 0.1, -x)
    config = ObjectiveConfig(terms={name: 1.0} if name != "real_data" else {"self_improve": 1.0}, tail=1e6, teacher=0.2)
    given = full if OBJECTIVES[name].reads == "weighted" else full._replace(weight=None)
    loss, _ = term(name, config, FlowModel(flow, tables), given)

    def value(moved: Any) -> Tensor:
        model, still = FlowModel(moved, tables), FlowModel(flow, tables)
        if name == "reverse_kl":
            here = draw(moved, peptide, 4)
            main = (still.log_prob(here) + 0.5 * here.square().sum((1, 2))).mean() / x[0].numel()
        elif name == "alpha2":
            main = -(given.weight * model.log_prob(x)).mean() / x[0].numel()
        else:
            main = OBJECTIVES[name].loss(model, given, config)[0]
        return main + 0.2 * 0.5 * (model.log_prob(x) - full.log_teacher).square().mean()

    numeric, analytic = along(flow, value, gradients(flow, loss))
    assert analytic == pytest.approx(numeric, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_a_batch_in_parts(subject: tuple[Any, Peptide], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of parts are those of the whole, and have the same bits on one, two or three threads."""
    monkeypatch.setattr(parts, "ROWS", 2)
    flow, peptide = subject
    tables, x = flow.tables([peptide]), draw(flow, peptide, 5)
    weight = torch.tensor([0.2, 1.8, 1.0, 1.5, 0.5], dtype=torch.float64)
    with torch.no_grad():
        log_q = FlowModel(flow, tables).log_prob(x)
    full = TermBatch(x, weight, -0.5 * x.square().sum((1, 2)), log_q, log_q + 0.1, -x)
    given = full if OBJECTIVES[name].reads == "weighted" else full._replace(weight=None)
    config = ObjectiveConfig(terms={name: 1.0} if name != "real_data" else {"self_improve": 1.0}, teacher=0.2)

    def by(shared: Parts | None) -> list[Tensor]:
        return gradients(flow, term(name, config, FlowModel(flow, tables, 1.0, shared), given)[0])

    whole, one = by(None), by(Parts())
    apart = sum(float((g - h).square().sum()) for g, h in zip(one, whole, strict=True))
    assert apart <= 1e-14 * sum(float(g.square().sum()) for g in whole)  # paths are solved to 1e-5
    for threads in (2, 3):
        for again, before in zip(by(Parts(threads)), one, strict=True):
            assert torch.equal(again, before)
    assert all(parameter.requires_grad for parameter in flow.parameters())


def test_a_part_that_fails_says_so() -> None:
    """An error of another thread arrives, and gradients of unused parameters are none."""

    def broken(x: Tensor) -> Tensor:
        raise ValueError(f"{len(x)} rows")

    p, unused = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    shared, x = Parts(2), torch.arange(70.0)
    with pytest.raises(ValueError, match="64 rows"):
        shared.differentiable(broken, [p], x)
    total = shared.differentiable(lambda rows: p * rows, [p, unused], x).sum()
    assert torch.autograd.grad(total, [p, unused], allow_unused=True) == (torch.tensor([float(x.sum())]), None)
    with torch.no_grad():
        assert not shared.differentiable(lambda rows: p * rows, [p], x).requires_grad


def test_wrong_objectives_are_named() -> None:
    for values, message in [
        ({"terms": {"best_one": 1.0}}, "unknown: choose of self_improve"),
        ({"terms": {"alpha2": -1.0}}, "must be a weight"),
        ({"terms": {"alpha2": 0.0}}, "no term"),
        ({"terms": {"real_data": 1.0}}, "go together"),
        ({"terms": {"real_data": 1.0, "anneal": 1.0}, "real_data": "x.npz"}, "one temperature"),
    ]:
        with pytest.raises(ValueError, match=message):
            ObjectiveConfig(**values)  # type: ignore[arg-type]
