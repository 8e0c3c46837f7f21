"""A flow's server whose weights change between rounds, and which also learns."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boltzray import models
from boltzray.models.flow import Flow
from boltzray.models.losses import Batch
from boltzray.molecules.energy_batch import EnergyBatch
from boltzray.samplers import Endpoints

from ..runtime.config import write_json
from ..sampling.energy_actors import Energies
from ..sampling.flow_actors import FlowServer
from ..sampling.target import Target
from .train_step import Finetuner, RoundData, RoundSpec, StepReport

ROUND = "round.json"


@dataclass(frozen=True, kw_only=True)
class RoundTarget:
    """What a round draws and weights: draws at `draw_k`, the target at `target_k`.

    SMC goes to π^power q^(1−power).
    """

    draw_k: float
    target_k: float
    power: float = 1.0


def save_round(folder: Path, flow: Flow, aim: RoundTarget) -> None:
    """Leave weights and aim where servers read them."""
    models.save(flow, folder)
    write_json(folder / ROUND, asdict(aim))


class FinetuneServer(FlowServer):
    """Serves what its folder says, now: one that died comes back with the weights of the present round.

    `target` is that of the whole run; energies are in kT at its temperature.
    """

    def __init__(self, checkpoint: str, target: Target, energies: Callable[[], Energies]) -> None:
        self.folder, self.base = Path(checkpoint), target
        self.power = 1.0
        super().__init__(checkpoint, target, energies)
        self._teacher: tuple[str, Flow] | None = None
        self._learner: Finetuner | None = None
        self._apply_round()

    def reload(self) -> None:
        """Take over the folder's weights and aim."""
        self.flow.load_state_dict(models.load(self.folder).state_dict())
        self.conditioning = self.flow.condition(self.peptide)
        self._apply_round()

    def _apply_round(self) -> None:
        aim = RoundTarget(**json.loads((self.folder / ROUND).read_text()))
        self.target = replace(self.base, temperature_k=aim.draw_k)
        self.aimed = replace(self.base, temperature_k=aim.target_k)
        self.power = aim.power

    def evaluate(self, x: Tensor) -> Endpoints:
        """Both ends of the path to π^power q^(1−power)."""
        ends = super().evaluate(x)
        if self.power == 1.0:
            return ends
        assert ends.grad_p is not None
        assert ends.grad_q is not None
        log_p = self.power * ends.log_p + (1.0 - self.power) * ends.log_q
        grad_p = self.power * ends.grad_p + (1.0 - self.power) * ends.grad_q
        return ends._replace(log_p=log_p, grad_p=grad_p)

    def _collect(self, asked: Any) -> EnergyBatch:
        """In kT at the temperature that is aimed at."""
        energy = self.energies.collect(asked)
        factor = self.base.temperature_k / self.aimed.temperature_k
        gradient = None if energy.gradient is None else factor * energy.gradient
        return EnergyBatch(factor * energy.energy, gradient, energy.ok)

    # --- learning -------------------------------------------------------------------------------

    def teacher_log_prob(self, checkpoint: str, x: np.ndarray) -> np.ndarray:
        """The teacher's log q (B,) at x, at the temperature that is aimed at."""
        teacher = self._teacher_flow(checkpoint)
        with torch.no_grad():
            c = teacher.condition(self.peptide)
            return teacher.log_prob(torch.tensor(x).to(self.device), c, self.aimed.ratio).double().cpu().numpy()

    def _teacher_flow(self, checkpoint: str) -> Flow:
        if self._teacher is None or self._teacher[0] != checkpoint:
            flow: Flow = models.load(checkpoint).requires_grad_(False).to(self.device)
            self._teacher = checkpoint, flow
        return self._teacher[1]

    def begin(self, task: RoundSpec, data: RoundData, state: dict[str, Any] | None) -> None:
        """Start a round of learning, or go on with it."""
        flow = models.load(self.folder).to(self.device)
        teacher = self._teacher_flow(task.teacher) if task.objective.teacher else None
        self._learner = Finetuner(flow, teacher, self.peptide, data, task, self._fresh)
        if state is not None:
            self._learner.load_state(state)

    def learn(self, seconds: float) -> StepReport:
        """Steps for so long, one at least, unless the round is done."""
        assert self._learner is not None
        began = time.monotonic()
        while self._learner.step < self._learner.task.steps:
            self._learner.advance()
            if time.monotonic() - began >= seconds:
                break
        return self._learner.report()

    def _fresh(self, flow: Flow, stream: np.random.Generator, n: int) -> Batch:
        """Draws of the flow as it is, with forces."""
        noise = stream.standard_normal((n, self.peptide.n_atoms, 3), np.float32)
        z = torch.from_numpy(noise).to(self.device)
        made, _ = flow.push(z, flow.condition(self.peptide), self.target.draw_precision, self.aimed.ratio)
        x = made.cpu().clone()
        energy = self._collect(self.energies.ask(self._nm(x.numpy()), gradient=True))
        log_p, grad_p, ok = self.aimed.log_density(x, energy, flow.scale_nm)
        assert grad_p is not None
        log_p = torch.where(ok, log_p, -torch.inf)
        return Batch(x=x.to(self.device), log_p=log_p.to(self.device), grad_p=grad_p.to(self.device))
