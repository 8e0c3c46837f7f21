"""Optimiser steps of one round of finetuning, and the learner's restorable state. Knows torch, not Ray."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from boltzray.models.augment import augment
from boltzray.models.flow import Flow
from boltzray.models.losses import OBJECTIVES, ObjectiveConfig, TermBatch, term
from boltzray.models.optimizer import make_optimizer
from boltzray.models.parts import Parts
from boltzray.models.pathwise import FlowModel
from boltzray.models.products import uses_bf16
from boltzray.molecules.peptide import Peptide
from boltzray.samplers.rng import generator

from .config import OptimizerConfig

LEARN, FRESH = 40, 41  # stages of random streams; samplers have those below 16


@dataclass(frozen=True, kw_only=True)
class RoundSpec:
    """One round of learning: number `index` of `rounds`, at `temperature_ratio` times the temperature of training."""

    objective: ObjectiveConfig
    optimizer: OptimizerConfig
    index: int
    rounds: int
    steps: int
    batch: int
    seed: int
    temperature_ratio: float
    teacher: str
    peptides: int = 1  # of a step, if there are as many


class TermData(NamedTuple):
    """Rows of the buffer that one term draws from, equally likely, and their weights of mean 1. Shape: (m,)."""

    rows: np.ndarray
    weight: np.ndarray | None


class RoundData(NamedTuple):
    """Data of one peptide to learn from. Shape: x (n, N, 3) normalised; others (n,); frames (T, N, 3) in nm."""

    pdb: str
    x: np.ndarray
    log_q: np.ndarray
    log_p: np.ndarray
    log_teacher: np.ndarray | None
    terms: Mapping[str, TermData]
    frames: np.ndarray | None


class StepReport(NamedTuple):
    """Progress of a round. `latest`: statistics of the last step; `state`: of `Finetuner.state`, to go on from."""

    step: int
    done: bool
    latest: dict[str, float]
    state: dict[str, Any]


def summary(state: Mapping[str, Any]) -> dict[str, float]:
    """Means of each statistic over the steps of a round that stands at `state`, and the steps that were skipped."""
    taken = max(state["step"] - state["bad"], 1)
    return {name: value / taken for name, value in state["sums"].items()} | {"skipped_steps": state["bad"]}


Fresh = Callable[[str, Flow, np.random.Generator, int], TermBatch]  # of the peptide with this PDB text


class Finetuner:
    """Flow, optimiser and schedule of one round, over one peptide or many.

    A step takes some of the peptides, each with an equal part of the batch; their losses are averaged. `fresh` draws
    from the flow as it is. `parts`: threads that share the peptides of a step, or the conformations of the only one,
    on CPUs, however many. Randomness is keyed by seed, round and step: a step that is done again by another process has
    the same bits.
    """

    def __init__(
        self, flow: Flow, teacher: Flow | None, data: Sequence[RoundData], spec: RoundSpec, fresh: Fresh, parts: Parts
    ) -> None:
        self.flow = flow.requires_grad_(True)
        self.parameters = list(flow.parameters())
        self.data, self.spec, self.fresh = data, spec, fresh
        self.device = self.parameters[0].device
        self.count = min(spec.peptides, len(data))
        # Those that draw freeze the flow meanwhile, which other threads would see.
        self.across = self.count > 1 and self.device.type == "cpu" and not spec.objective.on_policy
        self.parts = parts if self.across else Parts(1)
        shared = parts if self.device.type == "cpu" and not self.across else None
        bf16, ratio = uses_bf16(spec.optimizer.precision, self.device), spec.temperature_ratio
        tables = [flow.tables([Peptide.from_pdb(of_one.pdb)]) for of_one in data]
        self.models = [FlowModel(flow, t, ratio, shared, bf16=bf16) for t in tables]
        self.teachers = [] if teacher is None else [FlowModel(teacher, t, ratio, shared) for t in tables]
        self.optimizer, self.schedule = make_optimizer(
            flow.parameters(),
            lr=spec.optimizer.lr,
            betas=spec.optimizer.betas,
            weight_decay=spec.optimizer.weight_decay,
            warmup=spec.optimizer.warmup_share,
            steps=spec.rounds * spec.steps,
        )
        self.step, self.bad, self.bad_in_a_row = 0, 0, 0
        self.sums: dict[str, float] = {}
        self.latest: dict[str, float] = {}

    def advance(self) -> None:
        """Take one step. Raises: FloatingPointError after too many in a row without a finite loss and gradient."""
        spec, stream = self.spec, generator(self.spec.seed, LEARN, self.spec.index, self.step)
        chosen = stream.choice(len(self.data), self.count, replace=False).tolist() if len(self.data) > 1 else [0]
        sizes = [(spec.batch + place) // self.count for place in range(self.count)]  # their sum is the batch
        batches = [
            {name: self._batch(name, k, size, stream) for name in spec.objective.active}
            for k, size in zip(chosen, sizes, strict=True)
        ]
        found = self.parts.map(self._gradients, chosen, batches)
        for index, parameter in enumerate(self.parameters):
            there = [gradient for gradients, _ in found if (gradient := gradients[index]) is not None]
            parameter.grad = _mean(there) * (len(there) / self.count) if there else None
        norm = nn.utils.clip_grad_norm_(self.parameters, spec.optimizer.clip)
        statistics = {name: _mean([of_one[name] for _, of_one in found]) for name in found[0][1]}
        statistics["grad_norm"] = norm
        values = torch.stack([value.double() for value in statistics.values()]).tolist()  # waits for the device once
        self.latest = dict(zip(statistics, values, strict=True))
        finite = math.isfinite(self.latest["loss"]) and math.isfinite(self.latest["grad_norm"])
        if finite:
            self.optimizer.step()
        self.schedule.step()
        self.step += 1
        self._count(finite)

    def _gradients(self, k: int, batches: Mapping[str, TermBatch]) -> tuple[list[Tensor | None], dict[str, Tensor]]:
        """Gradients of the loss of peptide `k` by all parameters, and its statistics."""
        objective, statistics = self.spec.objective, dict[str, Tensor]()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for name, weight in objective.active.items():
            loss, found = term(name, objective, self.models[k], batches[name])
            total = total + weight * loss
            statistics |= found
        gradients = torch.autograd.grad(total, self.parameters, allow_unused=True)
        return list(gradients), statistics | {"loss": total.detach()}

    def _count(self, finite: bool) -> None:
        if finite:
            self.bad_in_a_row = 0
            for name, value in self.latest.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            return
        self.bad, self.bad_in_a_row = self.bad + 1, self.bad_in_a_row + 1
        if self.bad_in_a_row >= self.spec.optimizer.max_bad_steps:
            raise FloatingPointError(
                f"finetuning diverged: {self.bad_in_a_row} steps in a row had no finite loss or gradient (round "
                f"{self.spec.index + 1}, step {self.step}): lower optimizer.lr, or raise objective.teacher"
            )

    def _batch(self, name: str, k: int, size: int, stream: np.random.Generator) -> TermBatch:
        reads, data = OBJECTIVES[name].reads, self.data[k]
        if reads == "fresh":
            return self._with_teacher(k, self.fresh(data.pdb, self.flow, stream, size))
        if reads == "data":
            frames = data.frames
            assert frames is not None
            x = augment(
                frames[stream.integers(len(frames), size=size)], self.flow.scale_nm, stream, self.flow.config.center
            )
            return self._with_teacher(k, TermBatch(self._tensor(x)))
        of_term = data.terms[name]
        chosen = stream.integers(len(of_term.rows), size=size)
        rows = of_term.rows[chosen]
        return TermBatch(
            x=self._tensor(data.x[rows]),
            weight=None if of_term.weight is None else self._tensor(of_term.weight[chosen]),
            log_p=self._tensor(data.log_p[rows]),
            log_q=self._tensor(data.log_q[rows]),
            log_teacher=None if data.log_teacher is None else self._tensor(data.log_teacher[rows]),
        )

    def _with_teacher(self, k: int, batch: TermBatch) -> TermBatch:
        if not self.teachers:
            return batch
        with torch.no_grad():
            log_teacher = self.teachers[k].log_prob(batch.x).double()
        return batch._replace(log_teacher=log_teacher)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def report(self) -> StepReport:
        """Progress of the round after the last step."""
        return StepReport(self.step, self.step >= self.spec.steps, self.latest, self.state())

    def state(self) -> dict[str, Any]:
        """State from which another process goes on with the same bits; tensors on the CPU, none of them shared."""
        return {
            "index": self.spec.index,
            "step": self.step,
            "bad": self.bad,
            "bad_in_a_row": self.bad_in_a_row,
            "sums": dict(self.sums),
            "flow": _on_cpu(self.flow.state_dict()),
            "optimizer": _on_cpu(self.optimizer.state_dict()),
            "schedule": self.schedule.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`: within this round, or from the end of the one before."""
        self.flow.load_state_dict(state["flow"])
        self.optimizer.load_state_dict(_on_cpu(state["optimizer"]))  # a copy: it would step the tensors of `state`
        self.schedule.load_state_dict(state["schedule"])
        if state["index"] == self.spec.index:
            self.step, self.bad, self.bad_in_a_row = state["step"], state["bad"], state["bad_in_a_row"]
            self.sums = dict(state["sums"])


def _mean(values: Sequence[Tensor]) -> Tensor:
    """Mean of tensors, added in their order."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total / len(values)


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _on_cpu(inner) for key, inner in value.items()}
    return [_on_cpu(inner) for inner in value] if isinstance(value, list) else value
