"""Objectives of finetuning: a batch in, a loss and its statistics out. Pure torch.

All but the teacher's term are per degree of freedom. Shapes: B conformations, N atoms.
Source: papers at each loss.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

MAX_CORRECTION = 10.0  # of a weight of alpha2 for the change of the flow since the buffer was filled

Reads = Literal["resampled", "weighted", "drawn", "fresh", "data"]
Statistics = dict[str, Tensor]


class Model(Protocol):
    """A density with parameters θ, whose samples are x = T_θ(z)."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (B,) of x (B, N, 3), with gradients to the parameters."""
        ...

    def log_prob_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density (B,) and its gradient by x (B, N, 3), without gradients to the parameters."""
        ...

    def pathwise(self, x: Tensor, cotangent: Tensor) -> Tensor:
        """A number whose gradient by the parameters is Σ cotangentᵀ ∂x/∂θ, for samples x."""
        ...


class TermBatch(NamedTuple):
    """One batch of one term: conformations x, and of the other fields those that its loss asks for.

    `weight`: importance weights of mean 1 over the buffer; `log_p`: log π̃, −inf where the energy failed; `log_q`: of
    the flow that made the buffer; `log_teacher`: log q of the teacher; `grad_p`: gradient of log π̃, for fresh samples.

    Shape: x, grad_p (B, N, 3); others (B,). Units: x normalised.
    """

    x: Tensor
    weight: Tensor | None = None
    log_p: Tensor | None = None
    log_q: Tensor | None = None
    log_teacher: Tensor | None = None
    grad_p: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The weighted sum of `terms` to minimise, each with `teacher` · ½·mean((log q − log q_teacher)²) of its batch.

    The teacher is the flow at the start.

    `tail`: soft clip of log-weights in reverse_kl and log_variance. Those by more than this below their median count by
    their logarithm, or the clashes of a few samples would be all that these see. `hottest_k`: highest temperature of
    the ladder of `anneal`, its first rung.
    `real_data`: an .npz with `positions` (T, N, 3) in nm, for the term of that name.
    """

    terms: dict[str, float] = field(default_factory=lambda: {"alpha2": 1.0})
    teacher: float = 0.0
    tail: float = 20.0
    hottest_k: float = 500.0
    real_data: str | None = None

    def __post_init__(self) -> None:
        for name, weight in self.terms.items():
            if name not in OBJECTIVES:
                raise ValueError(f"objective {name!r} is unknown: choose of {', '.join(OBJECTIVES)}")
            if not 0.0 <= weight < math.inf:
                raise ValueError(f"objective.terms.{name}={weight} must be a weight of 0 or more")
        if not self.active:
            raise ValueError("objective.terms has no term with a weight above 0: give one, such as {alpha2: 1}")
        if not 0.0 <= self.teacher < math.inf or not 0.0 < self.tail < math.inf:
            raise ValueError("objective.teacher must be 0 or more, objective.tail above 0")
        if ("real_data" in self.active) != bool(self.real_data):
            raise ValueError("objective.terms.real_data and objective.real_data=FILE.npz go together: give both")
        if "real_data" in self.active and "anneal" in self.active:
            raise ValueError("real data has one temperature: it does not mix with anneal, which goes through several")

    @property
    def active(self) -> dict[str, float]:
        """The terms with a weight above 0."""
        return {name: weight for name, weight in self.terms.items() if weight}

    @property
    def name(self) -> str:
        """The active terms, joined by +, for people and file names."""
        return "+".join(self.active)

    @property
    def on_policy(self) -> bool:
        """True when each step needs fresh samples of the flow."""
        return any(OBJECTIVES[name].reads == "fresh" for name in self.active)

    @property
    def buffered(self) -> bool:
        """True when a term learns from the buffer."""
        return any(OBJECTIVES[name].reads not in ("fresh", "data") for name in self.active)

    @property
    def power(self) -> float:
        """Exponent p of the density π^p q^(1−p) that a sampler should bring the buffer to."""
        powers = {OBJECTIVES[name].power for name in self.active if OBJECTIVES[name].reads in ("weighted", "resampled")}
        return powers.pop() if len(powers) == 1 else 1.0


def term(name: str, config: ObjectiveConfig, model: Model, batch: TermBatch) -> tuple[Tensor, Statistics]:
    """Loss of one term and its teacher's, without the term's weight in the sum, and statistics to log.

    Shape: (), for `backward`; statistics () each, detached.
    """
    loss, log_q = OBJECTIVES[name].loss(model, batch, config)
    statistics = {name: loss.detach()}
    if config.teacher:
        assert batch.log_teacher is not None
        log_q = model.log_prob(batch.x).double() if log_q is None else log_q
        usable = torch.isfinite(batch.log_teacher) & torch.isfinite(log_q)
        away = torch.where(usable, log_q - batch.log_teacher, 0.0)
        teacher = 0.5 * away.square().mean()
        statistics["teacher"] = teacher.detach()
        loss = loss + config.teacher * teacher
    return loss, statistics


def likelihood(model: Model, batch: TermBatch, _: ObjectiveConfig) -> tuple[Tensor, Tensor | None]:
    """Negative log-likelihood, weighted if there are weights.

    On resampled conformations that is Prose's self-improvement (arXiv 2508.18175); with weights of the target forward
    KL; down a ladder of temperatures TA-BG's annealing (arXiv 2501.19077); on frames of MD it is training.
    """
    log_q = model.log_prob(batch.x).double()
    weighted = log_q if batch.weight is None else log_q * batch.weight
    return -weighted.mean() / _freedom(batch.x), log_q


def reverse_kl(model: Model, batch: TermBatch, config: ObjectiveConfig) -> tuple[Tensor, Tensor | None]:
    """E_q[log q − log π̃] on fresh samples, its gradient along their paths alone: "stick the landing".

    The gradient of each sample vanishes where q = π; that of log q by the parameters at fixed x, which is left out, is
    zero on average and has a variance there.
    Source: Roeder et al. 2017 (arXiv 1703.09194).
    """
    assert batch.log_p is not None
    assert batch.grad_p is not None
    log_q, grad_q = model.log_prob_and_gradient(batch.x)
    log_weight = (batch.log_p - log_q.double()).requires_grad_()
    usable = torch.isfinite(log_weight.detach())
    bounded = _bounded(log_weight, usable, config.tail)
    value = -bounded[usable].mean() / _freedom(batch.x)
    (slope,) = torch.autograd.grad(value, log_weight)
    slope = torch.where(usable, slope, 0.0)
    cotangent = slope[:, None, None] * (batch.grad_p - grad_q)
    path = model.pathwise(batch.x, torch.where(usable[:, None, None], cotangent, 0.0).to(batch.x))
    return value.detach() + path - path.detach(), None


def log_variance(model: Model, batch: TermBatch, config: ObjectiveConfig) -> tuple[Tensor, Tensor | None]:
    """Variance of log π̃ − log q over a batch from any distribution; zero where q = π.

    Source: Richter et al. 2020 (arXiv 2010.10436, VarGrad); LDR, arXiv 2602.03729.
    """
    assert batch.log_p is not None
    log_q = model.log_prob(batch.x).double()
    log_weight = batch.log_p - log_q
    usable = torch.isfinite(log_weight.detach())
    bounded = _bounded(log_weight, usable, config.tail)[usable]
    return bounded.var() / _freedom(batch.x), log_q


def alpha2(model: Model, batch: TermBatch, _: ObjectiveConfig) -> tuple[Tensor, Tensor | None]:
    """The α-divergence of order 2, ∫ π²/q: minus the log-likelihood with weights of π²/q, q being the present flow.

    Weights of the buffer are of the flow that filled it, and are corrected for its change since, by at most
    `MAX_CORRECTION`. Source: FAB (arXiv 2208.01893).
    """
    assert batch.weight is not None
    assert batch.log_q is not None
    log_q = model.log_prob(batch.x).double()
    correction = (batch.log_q - log_q.detach()).clamp(max=math.log(MAX_CORRECTION)).exp()
    return -(batch.weight * correction * log_q).mean() / _freedom(batch.x), log_q


Loss = Callable[[Model, TermBatch, ObjectiveConfig], tuple[Tensor, Tensor | None]]


class Objective(NamedTuple):
    """A loss, which returns log q (B,) with gradients as well if it computed it, and the batches that it takes.

    `reads`: rows of the buffer (proposals, or with SMC its particles) `resampled` by weight, `weighted`, or as `drawn`;
    `fresh` samples of the flow at each step; or `data`. `power`: p of the density π^p q^(1−p) that weights are of.
    `keys`: of `ObjectiveConfig`, those that nothing but this objective uses.
    """

    loss: Loss
    reads: Reads
    power: float = 1.0
    keys: tuple[str, ...] = ()


OBJECTIVES: dict[str, Objective] = {
    "self_improve": Objective(likelihood, "resampled"),
    "forward_kl": Objective(likelihood, "weighted"),
    "reverse_kl": Objective(reverse_kl, "fresh", keys=("tail",)),
    "log_variance": Objective(log_variance, "drawn", keys=("tail",)),
    "alpha2": Objective(alpha2, "weighted", power=2.0),
    "anneal": Objective(likelihood, "weighted", keys=("hottest_k",)),
    "real_data": Objective(likelihood, "data"),
}


def _freedom(x: Tensor) -> int:
    return x[0].numel()


def _bounded(log_weight: Tensor, usable: Tensor, tail: float) -> Tensor:
    """Log-weights, softly clipped: those below their median less `tail` by the logarithm of their distance to that."""
    floor = log_weight.detach()[usable].median() - tail
    below = usable & (log_weight.detach() < floor)
    beyond = torch.where(below, floor - log_weight, 0.0)
    return torch.where(below, floor - torch.log1p(beyond), log_weight)
