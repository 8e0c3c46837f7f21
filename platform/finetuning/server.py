"""The flow server of a finetuning: its weights and target change with each round, and it also learns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boltzray import models
from boltzray.models.flow import Flow
from boltzray.models.losses import TermBatch
from boltzray.models.parts import Parts
from boltzray.molecules.energy_batch import EnergyBatch
from boltzray.molecules.storage import read_json
from boltzray.samplers import Endpoints

from ..runtime.config import write_json
from ..sampling.energy_actors import Energies, Molecule
from ..sampling.flow_actors import FlowServer
from ..sampling.target import Target
from .train_step import Finetuner, RoundData, RoundSpec, StepReport

ROUND = "round.json"


@dataclass(frozen=True, kw_only=True)
class RoundTarget:
    """Temperatures, in K, at which a round samples and to which it reweights; SMC goes to π^power q^(1−power).

    `pdb`: text of the peptide that SMC moves; the first one's where it is empty.
    """

    draw_k: float
    target_k: float
    power: float = 1.0
    pdb: str = ""


def save_round(folder: Path, flow: Flow, target: RoundTarget) -> None:
    """Write weights and target to `folder`, where servers read them."""
    models.save(flow, folder)
    save_target(folder, target)


def save_target(folder: Path, target: RoundTarget) -> None:
    """Write another target for the same weights."""
    write_json(folder / ROUND, asdict(target))


class FinetuneServer(FlowServer):
    """Serve the flow and the target that are in a folder: one that died comes back with those of the present round.

    `run_target` is that of the whole run; energies come in kT at its temperature, and leave at that of `target`, which
    is the present round's. Of several peptides a call names its own, by PDB text; those of SMC follow a `reload`.
    """

    def __init__(self, checkpoint: str, target: Target, energies: Callable[[Molecule], Energies]) -> None:
        self.folder, self.run_target = Path(checkpoint), target
        self.power = 1.0
        super().__init__(checkpoint, target, energies)
        self._make_energies = energies
        self._members = {target.pdb: (self.peptide, self.energies)}
        self._teacher: tuple[str, Flow] | None = None
        self._learner: Finetuner | None = None
        self._shared: Parts | None = None
        self._apply_round()

    def reload(self) -> None:
        """Take over the weights and the target that the folder has now."""
        self.flow.load_state_dict(models.load(self.folder).state_dict())
        self._apply_round()

    def _apply_round(self) -> None:
        now = RoundTarget(**read_json(self.folder / ROUND))
        self._take(now.pdb or self.run_target.pdb)
        self.target = replace(self.target, temperature_k=now.target_k)
        self.proposal_ratio = replace(self.run_target, temperature_k=now.draw_k).temperature_ratio
        self.power = now.power

    def _take(self, pdb: str) -> None:
        """Make a peptide the present one; its energies are kept, as it comes again."""
        if pdb not in self._members:
            molecule = replace(self.run_target, pdb=pdb).molecule
            self._members[pdb] = molecule.peptide, self._make_energies(molecule)
        self.peptide, self.energies = self._members[pdb]
        self.conditioning = self.flow.condition(self.peptide)
        self.target = replace(self.target, pdb=pdb)

    def draw(self, seed: int, block: int, n: int, pdb: str = "") -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See `FlowServer`; of the peptide with this PDB text, if it is given."""
        if pdb:
            self._take(pdb)
        return super().draw(seed, block, n)

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
        """Energies in kT at the target's temperature."""
        energy = self.energies.collect(asked)
        factor = self.run_target.temperature_k / self.target.temperature_k
        gradient = None if energy.gradient is None else factor * energy.gradient
        return EnergyBatch(factor * energy.energy, gradient, energy.ok)

    # --- learning -------------------------------------------------------------------------------

    def teacher_log_prob(self, checkpoint: str, x: np.ndarray, pdb: str) -> np.ndarray:
        """log q (B,) of the teacher at x of a peptide, at the target's temperature."""
        self._take(pdb)
        teacher = self._teacher_flow(checkpoint)
        with torch.no_grad():
            c = teacher.condition(self.peptide)
            log_q = teacher.log_prob(torch.tensor(x).to(self.device), c, self.target.temperature_ratio)
            return log_q.double().cpu().numpy()

    def _teacher_flow(self, checkpoint: str) -> Flow:
        if self._teacher is None or self._teacher[0] != checkpoint:
            flow: Flow = models.load(checkpoint).requires_grad_(False).to(self.device)
            self._teacher = checkpoint, flow
        return self._teacher[1]

    def begin(self, threads: int, spec: RoundSpec, data: Sequence[RoundData], state: dict[str, Any] | None) -> None:
        """Start a round of learning, or go on with it from `state`, on so many threads of a CPU."""
        flow = models.load(self.folder).to(self.device)
        teacher = self._teacher_flow(spec.teacher) if spec.objective.teacher else None
        self._learner = Finetuner(flow, teacher, data, spec, self._fresh, self._parts(threads))
        if state is not None:
            self._learner.load_state(state)

    def learn(self, seconds: float) -> StepReport:
        """Take steps for so many seconds, one at least, unless the round is done."""
        assert self._learner is not None
        began = time.monotonic()
        while self._learner.step < self._learner.spec.steps:
            self._learner.advance()
            if time.monotonic() - began >= seconds:
                break
        return self._learner.report()

    def _parts(self, threads: int) -> Parts:
        if self._shared is None or self._shared.threads != threads:
            self._shared = Parts(threads)
        return self._shared

    def _fresh(self, pdb: str, flow: Flow, stream: np.random.Generator, n: int) -> TermBatch:
        """Draw `n` conformations of a peptide from the flow as it is now, with log π̃ and its gradient."""
        self._take(pdb)
        noise = stream.standard_normal((n, self.peptide.n_atoms, 3), np.float32)
        z = torch.from_numpy(noise).to(self.device)
        x, _ = flow.push(z, flow.condition(self.peptide), self.target.draw_precision, self.target.temperature_ratio)
        x = x.cpu().clone()
        energy = self._collect(self.energies.ask(self._nm(x.numpy()), gradient=True))
        log_p, grad_p, ok = self.log_density(x, energy)
        assert grad_p is not None
        log_p = torch.where(ok, log_p, -torch.inf)
        return TermBatch(x=x.to(self.device), log_p=log_p.to(self.device), grad_p=grad_p.to(self.device))
