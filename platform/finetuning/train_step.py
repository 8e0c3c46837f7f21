"""Optimiser steps of one round of finetuning, and the learner's restorable state. Knows torch, not Ray."""

import math
from collections.abc import Callable, Mapping
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


class TermData(NamedTuple):
    """Rows of the buffer that one term draws from, equally likely, and their weights of mean 1. Shape: (m,)."""

    rows: np.ndarray
    weight: np.ndarray | None


class RoundData(NamedTuple):
    """Data of a round of learning. Shape: x (n, N, 3) normalised; others (n,); frames (T, N, 3) in nm."""

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


Fresh = Callable[[Flow, np.random.Generator, int], TermBatch]


class Finetuner:
    """Flow, optimiser and schedule of one round.

    `fresh` draws from the flow as it is. `parts`: threads that share a batch on CPUs, however many. Randomness is keyed
    by seed, round and step: a step that is done again by another process has the same bits.
    """

    def __init__(
        self, flow: Flow, teacher: Flow | None, peptide: Peptide, data: RoundData, spec: RoundSpec, fresh: Fresh,
        parts: Parts,
    ) -> None:  # fmt: skip
        self.flow = flow.requires_grad_(True)
        self.data, self.spec, self.fresh = data, spec, fresh
        self.device = next(flow.parameters()).device
        ratio, tables = spec.temperature_ratio, flow.tables([peptide])
        shared = parts if self.device.type == "cpu" else None
        bf16 = uses_bf16(spec.optimizer.precision, self.device)
        self.model = FlowModel(flow, tables, ratio, shared, bf16=bf16)
        self.teacher_model = None if teacher is None else FlowModel(teacher, tables, ratio, shared)
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
        total, statistics = torch.zeros((), dtype=torch.float64, device=self.device), dict[str, Tensor]()
        for name, weight in spec.objective.active.items():
            loss, found = term(name, spec.objective, self.model, self._batch(name, stream))
            total = total + weight * loss
            statistics |= found
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.flow.parameters(), spec.optimizer.clip)
        statistics |= {"loss": total.detach(), "grad_norm": norm}
        values = torch.stack([value.double() for value in statistics.values()]).tolist()  # waits for the device once
        self.latest = dict(zip(statistics, values, strict=True))
        finite = math.isfinite(self.latest["loss"]) and math.isfinite(self.latest["grad_norm"])
        if finite:
            self.optimizer.step()
        self.schedule.step()
        self.step += 1
        self._count(finite)

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

    def _batch(self, name: str, stream: np.random.Generator) -> TermBatch:
        reads, size = OBJECTIVES[name].reads, self.spec.batch
        if reads == "fresh":
            return self._with_teacher(self.fresh(self.flow, stream, size))
        if reads == "data":
            frames = self.data.frames
            assert frames is not None
            x = augment(
                frames[stream.integers(len(frames), size=size)], self.flow.scale_nm, stream, self.flow.config.center
            )
            return self._with_teacher(TermBatch(self._tensor(x)))
        of_term, data = self.data.terms[name], self.data
        chosen = stream.integers(len(of_term.rows), size=size)
        rows = of_term.rows[chosen]
        return TermBatch(
            x=self._tensor(data.x[rows]),
            weight=None if of_term.weight is None else self._tensor(of_term.weight[chosen]),
            log_p=self._tensor(data.log_p[rows]),
            log_q=self._tensor(data.log_q[rows]),
            log_teacher=None if data.log_teacher is None else self._tensor(data.log_teacher[rows]),
        )

    def _with_teacher(self, batch: TermBatch) -> TermBatch:
        if self.teacher_model is None:
            return batch
        with torch.no_grad():
            log_teacher = self.teacher_model.log_prob(batch.x).double()
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


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _on_cpu(inner) for key, inner in value.items()}
    return [_on_cpu(inner) for inner in value] if isinstance(value, list) else value
