"""One finetuning, round after round, from wherever its folder stands.

out/run/weights                 the flow of the present round, and its aim: what servers read
out/run/round-000/…             its draws and particles
out/run/learner.pt              the optimiser's state
out/rounds.json                 how good the flow was before each round, and at the end
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boltzray import models
from boltzray.models.flow import Flow
from boltzray.molecules.peptide import Peptide

from ..runtime.config import write_json
from ..runtime.progress import progress, say
from ..runtime.tracking import Tracker, warn_on_error
from ..sampling.ray_population import Proposals
from ..sampling.target import Target, trained_at_k
from .buffer import Buffer, conformations, fill_buffer, importance_diagnostics, term_data
from .config import FinetuneJob
from .executors import Executor
from .outputs import described, leave_draws, provenance
from .reference import real_frames, reference_energies
from .server import RoundTarget, save_round
from .train_step import RoundData, RoundSpec, summary

OnRound = Callable[[dict[str, Any]], None]


class Run:
    """One finetuning, from wherever its folder stands."""

    def __init__(
        self, job: FinetuneJob, out: Path, checkpoint: Path, flow: Flow, peptide: Peptide, tracker: Tracker,
        on_round: OnRound | None,
    ) -> None:  # fmt: skip
        self.job, self.out, self.checkpoint, self.flow, self.peptide = job, out, checkpoint, flow, peptide
        self.tracker, self.on_round = tracker, on_round
        self.target = Target(
            pdb=peptide.to_pdb(),
            temperature_k=job.temperature_k,
            com=job.com,
            trained_at_k=trained_at_k(checkpoint),
            draw_precision=job.draw_precision,
        )
        self.folder, self.weights, self.learner = out / "run", out / "run" / "weights", out / "run" / "learner.pt"
        self.rounds: list[dict[str, Any]] = []
        self.began, self.before = time.monotonic(), 0.0

    def prepare(self) -> None:
        """Find out where the run stands, and leave weights where servers read them."""
        self.folder.mkdir(exist_ok=True)
        if (self.out / "rounds.json").exists():
            self.rounds = json.loads((self.out / "rounds.json").read_text())
            say(f"goes on after {len(self.rounds)} of {self.job.n_rounds + 1} draws")
        self.before = self.rounds[-1]["seconds"] if self.rounds else 0.0
        state = self.state()
        self._save_round(state, max(len(self.rounds) - 1, 0) if state is None else self._index(state))
        self.reference = reference_energies(self.job, self.peptide)
        self.frames = real_frames(self.job, self.flow, self.peptide)

    def state(self) -> dict[str, Any] | None:
        """The learner's, as it was last saved."""
        if not self.learner.exists():
            return None
        state: dict[str, Any] = torch.load(self.learner, weights_only=True)
        return state

    def _index(self, state: dict[str, Any]) -> int:
        """The round whose draws come from the weights of `state`, once its own is done."""
        return int(state["index"]) + (state["step"] >= self.job.steps)

    def _save_round(self, state: dict[str, Any] | None, index: int) -> None:
        draw_k, target_k = self.job.temperatures(index)
        if state is not None and state["step"] >= self.job.steps:
            self.flow.load_state_dict(state["flow"])
        elif index and (self.weights / "flow.json").exists():
            self.flow.load_state_dict(models.load(self.weights).state_dict())  # those that the round was begun with
        power = self.job.objective.power if index < self.job.n_rounds else 1.0
        save_round(self.weights, self.flow, RoundTarget(draw_k=draw_k, target_k=target_k, power=power))

    def rounds_by(self, executor: Executor) -> Proposals:
        """All rounds; returns the final draw."""
        n = self.job.n_rounds
        for index in range(n):
            state = self.state()
            done = state is not None and self._index(state) > index
            if not done:
                drawn, buffer = fill_buffer(self.job, executor, self._seed(index), self._folder(index))
                self._record(index, drawn, buffer.energies)
                self._learn(index, buffer, executor)
                executor.reload()
            elif self.on_round:
                self.on_round(self.rounds[index])
            shutil.rmtree(self._folder(index), ignore_errors=True)
        left = self.job.budget - self.rounds[n - 1]["energies"] - self.job.on_policy_energies
        drawn = executor.draw(left, self._seed(n), self._folder(n))
        self._record(n, drawn, left)
        return drawn

    def _folder(self, index: int) -> Path:
        folder = self.folder / f"round-{index:03d}"
        folder.mkdir(exist_ok=True)
        return folder

    def _seed(self, index: int) -> int:
        return int(np.random.SeedSequence(self.job.seed, spawn_key=(43, index)).generate_state(1)[0])

    def _record(self, index: int, drawn: Proposals, energies: int) -> None:
        """How good the flow is after `index` rounds: to rounds.json, MLflow, the user and the caller."""
        if index >= len(self.rounds):
            self._diagnose(index, drawn, energies)
        if self.on_round:
            self.on_round(self.rounds[index])

    def _diagnose(self, index: int, drawn: Proposals, energies: int) -> None:
        job, state = self.job, self.state()
        spent = self.rounds[-1]["energies"] + job.on_policy_energies if self.rounds else 0
        draw_k, target_k = job.temperatures(index)
        try:
            found = importance_diagnostics(drawn, job.weights, self.reference if draw_k == target_k else None)
        except ValueError as error:
            if index == 0:
                raise
            raise FloatingPointError(f"finetuning diverged in round {index}: {error}; lower optimizer.lr") from error
        entry = {"round": index, "energies": spent + energies, **found, "draw_k": draw_k, "target_k": target_k}
        entry |= summary(state) if state is not None else {}
        entry |= {"seconds": self.before + time.monotonic() - self.began, "final": index == job.n_rounds}
        self.rounds.append(entry)
        write_json(self.out / "rounds.json", self.rounds)
        with warn_on_error("logging to MLflow"):
            self.tracker.log(entry, step=index * job.steps)
        say(described(entry, job))
        if index and draw_k == job.temperature_k and entry["ess"] >= max(_comparable(self.rounds)):
            self._save("best", entry)

    def _learn(self, index: int, buffer: Buffer, executor: Executor) -> None:
        """The steps of one round, from wherever they stand; then the new weights, where servers read them."""
        job, n = self.job, index * self.job.steps
        task = RoundSpec(
            objective=job.objective, optimizer=job.optimizer, index=index, rounds=job.n_rounds, steps=job.steps,
            batch=job.batch, seed=job.seed, ratio=job.temperatures(index)[1] / self.target.trained_at_k,
            teacher=str(self.checkpoint),
        )  # fmt: skip
        state = self.state()
        executor.begin(task, self._round_data(index, buffer, executor), state)
        done = state["step"] if state is not None and state["index"] == index else 0
        with progress(f"learn, round {index + 1} of {job.n_rounds}", job.steps, done) as update:
            while True:
                report = executor.learn(job.checkpoint_s)
                temporary = self.learner.with_suffix(".tmp")
                torch.save(report.state, temporary)
                temporary.replace(self.learner)
                with warn_on_error("logging to MLflow"):
                    self.tracker.log({f"step_{k}": v for k, v in report.latest.items()}, step=n + report.step)
                update(report.step, f"step {report.step}/{job.steps}  loss {report.latest.get('loss', np.nan):.4f}")
                if report.done:
                    break
        self._save_round(report.state, index + 1)

    def _round_data(self, index: int, buffer: Buffer, executor: Executor) -> RoundData:
        job = self.job
        log_teacher = None
        if job.objective.teacher and job.objective.buffered:
            path = self._folder(index) / "teacher.npy"
            if not path.exists():
                np.save(path.with_name("unfinished.npy"), executor.teacher_log_prob(self.checkpoint, buffer.paths))
                path.with_name("unfinished.npy").replace(path)
            log_teacher = np.load(path)
        chosen = term_data(buffer, job.objective, job.weights, self._seed(index))
        x = conformations(buffer.paths) if job.objective.buffered else np.zeros((0, 0, 3), np.float32)
        return RoundData(x, buffer.log_q, buffer.log_p, log_teacher, chosen, self.frames)

    def finish(self, drawn: Proposals) -> None:
        """The flow to out/checkpoint, and the final draw."""
        self._save("checkpoint", self.rounds[-1])
        leave_draws(self.out, self.job, self.peptide, drawn, self.flow.scale_nm, self.rounds[-1]["seconds"])

    def _save(self, name: str, entry: dict[str, Any]) -> None:
        about = provenance(self.job, self.checkpoint, self.target, self.peptide, entry)
        models.save(self.flow, self.out / name, about)


def _comparable(rounds: list[dict[str, Any]]) -> list[float]:
    """ESS of all draws at the last one's temperature."""
    return [entry["ess"] for entry in rounds if entry["draw_k"] == entry["target_k"] == rounds[-1]["draw_k"]]
