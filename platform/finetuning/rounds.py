"""Rounds of one finetuning, from wherever its folder stands.

Round k of n. The driver is this file, in one process; the executor's servers hold the flow and evaluate energies, in
this process or in actors. The driver's own copy of the flow has the weights that round k began with.

    driver                              executor's servers                 files below out/
    ─────────────────────────────────   ────────────────────────────────   ─────────────────────────────────────
    prepare: progress and weights                                          reads rounds.json, run/learner.pt
    ┌► fill_buffer: proposals ────────► x ~ q_k, log q, log π̃ ───────────► run/round-k/draws-*.npz
    │    or particles of SMC, by ─────► blocks moved toward π^p q^(1−p) ─► run/round-k/smc-*/
    │    their scalars
    │  _record: ESS, k̂, energy W₂ ◄──── log q, log π̃, energies             rounds.json, best/ where the ESS rose
    │  _learn: RoundSpec, RoundData ──► first server: steps of Finetuner   run/round-k/teacher.npy
    │          state after steps ◄───── StepReport each checkpoint_s ────► run/learner.pt
    │  _save_weights: round k + 1                                          run/weights/, with round.json
    └─ reload ────────────────────────► weights and target of k + 1        run/round-k is deleted
    last proposals, with all that ────► x ~ q_n, log q, log π̃ ───────────► run/round-n/draws-*.npz
    is left of the budget
    finish                                                                 checkpoint/, samples.npz, …; run/ goes

Where a run stands follows from rounds.json (what was drawn) and learner.pt (what was learned): `RoundProgress`. All
random numbers are keyed by seed, round, and block or step: what a killed run had not written is made again, bit by bit.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from boltzray import models
from boltzray.models.flow import Flow
from boltzray.molecules.forcefield import forcefield_of

from ..runtime.progress import progress, say
from ..runtime.tracking import Tracker, warn_on_error
from ..sampling.atom_order import OrderedPeptide
from ..sampling.block_files import has_part, load_part, save_part
from ..sampling.population import Proposals
from ..sampling.target import Target, trained_at_k
from .buffer import Buffer, conformations, fill_buffer, importance_diagnostics, term_data
from .config import FinetuneJob
from .executors import Executor
from .outputs import described, provenance, write_final_samples
from .reference import real_frames, reference_energies
from .round_progress import RoundProgress
from .round_record import RoundRecord
from .server import RoundTarget, save_round
from .train_step import RoundData, RoundSpec, summary

OnRound = Callable[[dict[str, Any]], None]


class FinetuneRun:
    """One finetuning, from wherever its folder stands."""

    def __init__(
        self, job: FinetuneJob, out: Path, checkpoint: Path, flow: Flow, ordered: OrderedPeptide, tracker: Tracker,
        on_round: OnRound | None,
    ) -> None:  # fmt: skip
        self.job, self.out, self.checkpoint, self.flow, self.ordered = job, out, checkpoint, flow, ordered
        self.peptide = ordered.peptide
        self.tracker, self.on_round = tracker, on_round
        self.target = Target(
            pdb=self.peptide.to_pdb(),
            temperature_k=job.temperature_k,
            com=job.com,
            trained_at_k=trained_at_k(checkpoint),
            draw_precision=job.draw_precision,
            forcefield=forcefield_of(self.peptide),
        )
        self.folder, self.weights = out / "run", out / "run" / "weights"
        self.plan, self.progress = job.plan, RoundProgress.read(out, job.steps)
        records = self.progress.records
        self.began, self.before = time.monotonic(), records[-1].seconds if records else 0.0

    def prepare(self) -> None:
        """Leave the present round's weights where servers read them; load what rounds are judged by and learn from."""
        for note in self.ordered.given.notes:
            say(f"note: {note}")
        if self.progress.records:
            say(f"goes on after {len(self.progress.records)} of {self.plan.rounds + 1} draws")
        self.folder.mkdir(exist_ok=True)
        self._save_weights()
        self.reference = reference_energies(self.job, self.peptide)
        self.frames = real_frames(self.job, self.peptide)

    def _save_weights(self) -> None:
        """Write the weights that the present round begins with, and its target, for servers to read.

        learner.pt and weights/ are rewritten in turn, so that one of them always has what a resumed run needs. Within
        a round learner.pt moves on with each report; only weights/ still has the flow that the round's proposals come
        from, and that servers must draw the missing ones from. With the last step learner.pt has the next round's
        weights, and weights/ may be rewritten: a run that is killed before that, or between weights and round.json,
        comes by here again when it goes on.
        """
        index = self.progress.index
        if (weights := self.progress.weights()) is not None:
            self.flow.load_state_dict(weights)
        elif index:
            self.flow.load_state_dict(models.load(self.weights).state_dict())
        draw_k, target_k = self.job.temperatures(index)
        power = self.job.objective.power if index < self.plan.rounds else 1.0
        save_round(self.weights, self.flow, RoundTarget(draw_k=draw_k, target_k=target_k, power=power))

    def run_rounds(self, executor: Executor) -> Proposals:
        """Run all rounds that are left; returns the final draw."""
        n = self.plan.rounds
        for record in self.progress.records[: self.progress.index]:
            self._tell(record)
            shutil.rmtree(self._folder(record.round), ignore_errors=True)  # of one that was killed before this
        while (index := self.progress.index) < n:
            drawn, buffer = fill_buffer(self.job, executor, self._seed(index), self._folder(index))
            self._record(drawn, buffer.energies)
            self._learn(buffer, executor)
            executor.reload()
            shutil.rmtree(self._folder(index), ignore_errors=True)
        left = self.plan.left(self.progress.records[n - 1].energies)
        drawn = executor.draw(left, self._seed(n), self._folder(n))
        self._record(drawn, left)
        return drawn

    def _folder(self, index: int) -> Path:
        folder = self.folder / f"round-{index:03d}"
        folder.mkdir(exist_ok=True)
        return folder

    def _seed(self, index: int) -> int:
        return int(np.random.SeedSequence(self.job.seed, spawn_key=(43, index)).generate_state(1)[0])

    # --- the record of a round ------------------------------------------------------------------

    def _record(self, drawn: Proposals, energies: int) -> None:
        """Measure the present round's flow by its draws, unless that was done before the run was stopped; tell it."""
        if not self.progress.drawn:
            record = self._measured(drawn, energies)
            self.progress.add_record(record)
            with warn_on_error("logging to MLflow"):
                self.tracker.log(record.to_json(), step=record.round * self.job.steps)
            say(described(record, self.job))
            if record.round and self._is_best(record):
                self._save("best", record)
        self._tell(self.progress.records[self.progress.index])

    def _tell(self, record: RoundRecord) -> None:
        if self.on_round:
            self.on_round(record.to_json())

    def _measured(self, drawn: Proposals, energies: int) -> RoundRecord:
        index, records, learner = self.progress.index, self.progress.records, self.progress.learner
        draw_k, target_k = self.job.temperatures(index)
        try:
            found = importance_diagnostics(drawn, self.job.weights, self.reference if draw_k == target_k else None)
        except ValueError as error:
            if index == 0:
                raise
            raise FloatingPointError(f"finetuning diverged in round {index}: {error}; lower optimizer.lr") from error
        spent = records[-1].energies + self.plan.on_policy if records else 0
        return RoundRecord(
            round=index,
            energies=spent + energies,
            **found,
            draw_k=draw_k,
            target_k=target_k,
            learning={} if learner is None else summary(learner),
            seconds=self.before + time.monotonic() - self.began,
            final=index == self.plan.rounds,
        )

    def _is_best(self, record: RoundRecord) -> bool:
        """Return True if no draw at the temperature of the job had a higher ESS than this one."""
        if record.draw_k != self.job.temperature_k:
            return False
        comparable = [r.ess for r in self.progress.records if r.on_target and r.draw_k == record.draw_k]
        return record.ess >= max(comparable)

    # --- learning -------------------------------------------------------------------------------

    def _learn(self, buffer: Buffer, executor: Executor) -> None:
        """Take the steps of the present round that are left; then leave the next round's weights for the servers."""
        job, index = self.job, self.progress.index
        spec = RoundSpec(
            objective=job.objective, optimizer=job.optimizer, index=index, rounds=self.plan.rounds, steps=job.steps,
            batch=job.batch, seed=job.seed, temperature_ratio=job.temperatures(index)[1] / self.target.trained_at_k,
            teacher=str(self.checkpoint),
        )  # fmt: skip
        executor.begin(spec, self._round_data(buffer, executor), self.progress.learner)
        with progress(f"learn, round {index + 1} of {self.plan.rounds}", job.steps, self.progress.step) as update:
            while self.progress.index == index:
                report = executor.learn(job.checkpoint_s)
                self.progress.save_learner(report.state)
                with warn_on_error("logging to MLflow"):
                    statistics = {f"step_{k}": v for k, v in report.latest.items()}
                    self.tracker.log(statistics, step=index * job.steps + report.step)
                update(report.step, f"step {report.step}/{job.steps}  loss {report.latest.get('loss', np.nan):.4f}")
        self._save_weights()

    def _round_data(self, buffer: Buffer, executor: Executor) -> RoundData:
        job, index = self.job, self.progress.index
        log_teacher = None
        if job.objective.teacher and job.objective.buffered:
            path = self._folder(index) / "teacher.npz"
            if not has_part(path, len(buffer.log_q), "log_teacher"):
                save_part(path, log_teacher=executor.teacher_log_prob(self.checkpoint, buffer.paths))
            log_teacher = load_part(path, "log_teacher")["log_teacher"]
        terms = term_data(buffer, job.objective, job.weights, self._seed(index))
        x = conformations(buffer.paths) if job.objective.buffered else np.zeros((0, 0, 3), np.float32)
        return RoundData(x, buffer.log_q, buffer.log_p, log_teacher, terms, self.frames)

    # --- results --------------------------------------------------------------------------------

    def finish(self, drawn: Proposals) -> None:
        """Write the flow to out/checkpoint, and the final draw."""
        record = self.progress.records[-1]
        self._save("checkpoint", record)
        write_final_samples(self.out, self.job, self.ordered, drawn, self.flow.scale_nm, record.seconds)

    def _save(self, name: str, record: RoundRecord) -> None:
        about = provenance(self.job, self.checkpoint, self.target, self.peptide, record)
        models.save(self.flow, self.out / name, about)
