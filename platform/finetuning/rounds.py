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

Of several peptides all draws are asked for at once, each call naming its peptide, and are in run/round-k/SEQUENCE/. SMC
moves one peptide after the other (`_turn_to`: round.json names it, servers reload). Learning takes all buffers.

Where a run stands follows from rounds.json (what was drawn) and learner.pt (what was learned): `RoundProgress`. All
random numbers are keyed by seed, round, and block or step: what a killed run had not written is made again, bit by bit.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from boltzray import models
from boltzray.models.flow import Flow
from boltzray.molecules.forcefield import forcefield_of

from ..runtime.progress import progress, say
from ..runtime.tracking import Tracker, warn_on_error
from ..sampling.block_files import has_part, load_part, save_part
from ..sampling.population import Proposals, Request
from ..sampling.target import Target, trained_at_k
from .buffer import Buffer, anneals, conformations, effective_draws, fill_buffer, importance_diagnostics, term_data
from .config import FinetuneJob
from .executors import Executor
from .members import Member, Peptides, brief, no_weights, pooled
from .outputs import described, provenance, write_final_samples, write_table_of_peptides
from .reference import real_frames, reference_energies
from .round_progress import RoundProgress
from .round_record import RoundRecord
from .server import RoundTarget, save_round, save_target
from .train_step import RoundData, RoundSpec, TermData, summary

OnRound = Callable[[dict[str, Any]], None]

LEAST_EFFECTIVE = 10  # draws that a peptide's weights must amount to, of several: one draw of a peptide teaches noise


class FinetuneRun:
    """One finetuning, from wherever its folder stands."""

    def __init__(
        self, job: FinetuneJob, out: Path, checkpoint: Path, flow: Flow, peptides: Peptides, tracker: Tracker,
        on_round: OnRound | None,
    ) -> None:  # fmt: skip
        self.job, self.out, self.checkpoint, self.flow = job, out, checkpoint, flow
        self.tracker, self.on_round = tracker, on_round
        self.learned = [Member.of(ordered, learned=True) for ordered in peptides.learned]
        self.members = [*self.learned, *(Member.of(ordered, learned=False) for ordered in peptides.validation)]
        self.several, self.present = bool(job.sequences), self.learned[0]
        self.target = Target(
            pdb=self.present.pdb,
            temperature_k=job.temperature_k,
            com=job.com,
            trained_at_k=trained_at_k(checkpoint),
            draw_precision=job.draw_precision,
            forcefield=forcefield_of(self.present.peptide),
        )
        self.folder, self.weights = out / "run", out / "run" / "weights"
        self.plan, self.progress = job.plan, RoundProgress.read(out, job.steps)
        records = self.progress.records
        self.began, self.before = time.monotonic(), records[-1].seconds if records else 0.0

    def prepare(self) -> None:
        """Leave the present round's weights where servers read them; load what rounds are judged by and learn from."""
        for member in self.members:
            for note in member.ordered.given.notes:
                say(f"note: {note}")
        if self.progress.records:
            say(f"goes on after {len(self.progress.records)} of {self.plan.rounds + 1} draws")
        self.folder.mkdir(exist_ok=True)
        self._save_weights()
        self.reference = None if self.several else reference_energies(self.job, self.present.peptide)
        self.frames = real_frames(self.job, self.present.peptide)

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
        self.present = self.learned[0]
        save_round(self.weights, self.flow, self._round_target())

    def _round_target(self) -> RoundTarget:
        index = self.progress.index
        draw_k, target_k = self.job.temperatures(index)
        power = self.job.objective.power if index < self.plan.rounds else 1.0
        return RoundTarget(draw_k=draw_k, target_k=target_k, power=power, pdb=self.present.pdb)

    def _turn_to(self, member: Member, executor: Executor) -> None:
        """Have the servers work on a peptide where a call names none."""
        self.present = member
        save_target(self.weights, self._round_target())
        executor.reload()

    def run_rounds(self, executor: Executor) -> Proposals:
        """Run all rounds that are left; returns the final draw, of the first peptide."""
        n = self.plan.rounds
        for record in self.progress.records[: self.progress.index]:
            self._tell(record)
            shutil.rmtree(self._round_folder(record.round), ignore_errors=True)  # of one that was killed before this
        while (index := self.progress.index) < n:
            annealed = anneals(self.job)
            drawn = self._draw(self.job.smc_particles if annealed else self.plan.share, executor)
            filled = list[tuple[Buffer, np.ndarray | None]]()
            for k, member in enumerate(self.learned):
                if annealed and self.several:
                    say(f"{member.name}, {k + 1} of {len(self.learned)} peptides")
                    self._turn_to(member, executor)
                buffer = fill_buffer(self.job, executor, drawn[k], self._seed(k), self._folder(member))
                filled.append((buffer, self._log_teacher(buffer, executor, member)))
            self._record(drawn, sum(buffer.energies for buffer, _ in filled))
            self._learn(filled, executor)
            executor.reload()
            shutil.rmtree(self._round_folder(index), ignore_errors=True)
        left = self.plan.left(self.progress.records[n - 1].energies) // len(self.learned)
        drawn = self._draw(left, executor)
        self._record(drawn, left * len(self.learned))
        return drawn[0]

    def _draw(self, n: int, executor: Executor) -> list[Proposals]:
        """Draw `n` conformations of each peptide that is learned from, and those of the others."""
        requests = [
            Request(
                n if member.learned else self.job.validation_draws, self._seed(k), self._folder(member),
                (member.pdb,) if self.several else (),
            )
            for k, member in enumerate(self.members)
        ]  # fmt: skip
        return executor.draw(requests, f"draw, {len(requests)} peptides" if self.several else "draw")

    def _round_folder(self, index: int) -> Path:
        folder = self.folder / f"round-{index:03d}"
        folder.mkdir(exist_ok=True)
        return folder

    def _folder(self, member: Member) -> Path:
        """The folder of a peptide's present round."""
        folder = self._round_folder(self.progress.index)
        if self.several:
            folder = folder / member.name
            folder.mkdir(exist_ok=True)
        return folder

    def _seed(self, k: int) -> int:
        """Seed of the present round of the `k`th peptide; one that is not learned from has the same latents in all."""
        index = self.progress.index if self.members[k].learned else 0
        key = (43, index, k) if k else (43, index)
        return int(np.random.SeedSequence(self.job.seed, spawn_key=key).generate_state(1)[0])

    # --- the record of a round ------------------------------------------------------------------

    def _record(self, drawn: Sequence[Proposals], energies: int) -> None:
        """Measure the present round's flow by its draws, unless that was done before the run was stopped; tell it."""
        if not self.progress.drawn:
            record = self._measured(drawn, energies)
            self.progress.add_record(record)
            with warn_on_error("logging to MLflow"):
                self.tracker.log(record.numbers, step=record.round * self.job.steps)
            say(described(record, self.job))
            if record.round and self._is_best(record):
                self._save("best", record)
        self._tell(self.progress.records[self.progress.index])

    def _tell(self, record: RoundRecord) -> None:
        if self.on_round:
            self.on_round(record.to_json())

    def _measured(self, drawn: Sequence[Proposals], energies: int) -> RoundRecord:
        index, records, learner = self.progress.index, self.progress.records, self.progress.learner
        draw_k, target_k = self.job.temperatures(index)
        found = [self._quality(of_one, self.reference if draw_k == target_k else None) for of_one in drawn]
        of_each = {m: brief(one) for m, one in zip(self.members, found, strict=True)} if self.several else {}
        spent = records[-1].energies + self.plan.on_policy if records else 0
        return RoundRecord(
            round=index,
            energies=spent + energies,
            **(pooled(found[: len(self.learned)]) if of_each else found[0]),
            draw_k=draw_k,
            target_k=target_k,
            learning={} if learner is None else summary(learner),
            seconds=self.before + time.monotonic() - self.began,
            final=index == self.plan.rounds,
            peptides={member.name: one for member, one in of_each.items() if member.learned},
            validation={member.name: one for member, one in of_each.items() if not member.learned},
        )

    def _quality(self, drawn: Proposals, reference: np.ndarray | None) -> dict[str, Any]:
        """Diagnostics of a peptide's draws.

        Raises: ValueError, or after some learning FloatingPointError, where no draw of the only peptide has a weight.
        """
        try:
            return importance_diagnostics(drawn, self.job.weights, reference)
        except ValueError as error:
            if self.several:
                return no_weights(len(drawn.log_q))
            if (index := self.progress.index) == 0:
                raise
            raise FloatingPointError(f"finetuning diverged in round {index}: {error}; lower optimizer.lr") from error

    def _is_best(self, record: RoundRecord) -> bool:
        """Return True if no draw at the temperature of the job had a higher ESS than this one."""
        if record.draw_k != self.job.temperature_k:
            return False
        comparable = [r.judged[0] for r in self.progress.records if r.on_target and r.draw_k == record.draw_k]
        return record.judged[0] >= max(comparable)

    # --- learning -------------------------------------------------------------------------------

    def _learn(self, filled: Sequence[tuple[Buffer, np.ndarray | None]], executor: Executor) -> None:
        """Take the steps of the present round that are left; then leave the next round's weights for the servers."""
        job, index = self.job, self.progress.index
        spec = RoundSpec(
            objective=job.objective, optimizer=job.optimizer, index=index, rounds=self.plan.rounds, steps=job.steps,
            batch=job.batch, seed=job.seed, temperature_ratio=job.temperatures(index)[1] / self.target.trained_at_k,
            teacher=str(self.checkpoint), peptides=job.peptides_a_step,
        )  # fmt: skip
        executor.begin(spec, self._round_data(filled), self.progress.learner)
        with progress(f"learn, round {index + 1} of {self.plan.rounds}", job.steps, self.progress.step) as update:
            while self.progress.index == index:
                report = executor.learn(job.checkpoint_s)
                self.progress.save_learner(report.state)
                with warn_on_error("logging to MLflow"):
                    statistics = {f"step_{k}": v for k, v in report.latest.items()}
                    self.tracker.log(statistics, step=index * job.steps + report.step)
                update(report.step, f"step {report.step}/{job.steps}  loss {report.latest.get('loss', np.nan):.4f}")
        self._save_weights()

    def _log_teacher(self, buffer: Buffer, executor: Executor, member: Member) -> np.ndarray | None:
        objective = self.job.objective
        if not objective.teacher or not objective.buffered:
            return None
        path = self._folder(member) / "teacher.npz"
        if not has_part(path, len(buffer.log_q), "log_teacher"):
            save_part(path, log_teacher=executor.teacher_log_prob(self.checkpoint, buffer.paths, member.pdb))
        return load_part(path, "log_teacher")["log_teacher"]

    def _round_data(self, filled: Sequence[tuple[Buffer, np.ndarray | None]]) -> list[RoundData]:
        """Data to learn from, of each peptide; of several, those with too few draws that count are left out.

        Raises: FloatingPointError where none is left.
        """
        job, found, left_out = self.job, list[RoundData](), list[str]()
        for k, (member, (buffer, log_teacher)) in enumerate(zip(self.learned, filled, strict=True)):
            terms = self._terms(buffer, k)
            if terms is None or (self.several and effective_draws(terms) < LEAST_EFFECTIVE):
                left_out.append(member.name)
                continue
            x = conformations(buffer.paths) if job.objective.buffered else np.zeros((0, 0, 3), np.float32)
            found.append(RoundData(member.pdb, x, buffer.log_q, buffer.log_p, log_teacher, terms, self.frames))
        if left_out:
            few = f"the weights of {', '.join(left_out)} amount to fewer than {LEAST_EFFECTIVE} draws"
            if not found:
                raise FloatingPointError(
                    f"there is nothing to learn from: {few}; raise budget, or give sampler=smc, another objective or a "
                    "better flow"
                )
            say(f"learns from {len(found)} of {len(self.learned)} peptides: {few}")
        return found

    def _terms(self, buffer: Buffer, k: int) -> dict[str, TermData] | None:
        """Rows and weights for each term; None where no draw of one of several peptides has a weight."""
        try:
            return term_data(buffer, self.job.objective, self.job.weights, self._seed(k))
        except ValueError:
            if not self.several:
                raise
            return None

    # --- results --------------------------------------------------------------------------------

    def finish(self, drawn: Proposals) -> None:
        """Write the flow to out/checkpoint, and the final draw."""
        record = self.progress.records[-1]
        self._save("checkpoint", record)
        if self.several:
            write_table_of_peptides(self.out, self.progress.records)
            return
        write_final_samples(self.out, self.job, self.present.ordered, drawn, self.flow.scale_nm, record.seconds)

    def _save(self, name: str, record: RoundRecord) -> None:
        sequences = [member.peptide.sequence for member in self.learned]
        about = provenance(self.job, self.checkpoint, self.target, sequences, record)
        models.save(self.flow, self.out / name, about)
