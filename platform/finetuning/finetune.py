"""Finetuning of a flow to one peptide: rounds of sampling, reweighting and learning, each energy counted."""

import math
import shutil
from pathlib import Path

from boltzray import models
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.sequences import n_residues

from ..evaluation.evaluate import evaluate_folder, print_verdict
from ..runtime.config import data_folder, results_home
from ..runtime.progress import say
from ..runtime.run_folder import ATOM_ORDER, RunFolder
from ..runtime.tracking import Tracker
from ..sampling.atom_order import OrderedPeptide
from ..sampling.energy_actors import engine_note
from ..sampling.sample_files import finished
from ..sampling.target import check_supported
from .config import FinetuneJob
from .executors import start_executor
from .members import Peptides
from .outputs import FIGURE, PEPTIDES, percent, quality
from .round_record import RoundRecord, read_records
from .rounds import FinetuneRun, OnRound

NEED_GRADIENT = {"reverse_kl", "log_variance", "anneal"}  # or log q at draws, to all digits
INCIDENTAL = ("cluster.", "actors.", "out", "data_dir", "checkpoint_s", "in_process")  # do not change the results


def finetune(job: FinetuneJob, on_round: OnRound | None = None, parent: Tracker | None = None) -> Path:
    """Run or continue `job`; returns its folder, with the finetuned flow in `checkpoint` there.

    `on_round` is called rounds + 1 times, whenever the flow has been sampled and reweighted: with round=0 before any
    learning, with round=k after k rounds of it, the last time with the final draw. It receives a plain dict:
    `round`; `energies` spent so far; `ess` (fraction) with its standard error `ess_error`, `k_hat` and
    `max_weight_share` of the flow's own `n` draws, of which `n_failed` have no energy; `energy_w2` to reference MD in
    kT (None without any at that temperature); `draw_k` and `target_k` (differ for `anneal`, whose `ess` is then
    not comparable between rounds; the final one is); `loss`, mean over the steps of the round that has ended, each
    term's, and `skipped_steps` (missing in round 0); `seconds` of work so far; `final`, true for the last. Of several
    peptides the numbers are means (`RoundRecord`), and `peptides` and `validation` have those of each by its sequence.
    The same dicts are in out/rounds.json. A resumed run calls `on_round` again for rounds that are done. An error that
    `on_round` raises stops the run, which goes on from there when called again.

    `parent`: the MLflow run that this one is nested in.
    Raises: FloatingPointError, which names the round, when the run diverges; ValueError for wrong input.
    """
    checkpoint, peptides = checkpoint_and_peptides(job)
    weights = models.checkpoint.fingerprint(checkpoint)
    facts = {"weights_sha256": weights, ATOM_ORDER: "iupac"}
    with RunFolder.open(job.folder, "finetune", job, INCIDENTAL, job.files, **facts) as folder:
        return _finetune_into(folder, job, checkpoint, peptides, on_round, parent)


def _finetune_into(
    folder: RunFolder, job: FinetuneJob, checkpoint: Path, peptides: Peptides, on_round: OnRound | None,
    parent: Tracker | None,
) -> Path:  # fmt: skip
    out = folder.path
    if finished(out) or (out / PEPTIDES).exists():
        say(f"already finetuned: {out}")
        if on_round:
            for record in read_records(out):
                on_round(record.to_json())
        return out
    with folder.track(parent) as tracker:
        run = FinetuneRun(job, out, checkpoint, models.load(checkpoint), peptides, tracker, on_round)
        run.prepare()
        for ordered in peptides.learned:
            if note := engine_note(ordered.peptide, job.energy.engine):
                say(f"note: {note}")
        with start_executor(job, run.weights, run.target) as executor:
            drawn = run.run_rounds(executor)
        run.finish(drawn)
        tracker.artifact(out / "checkpoint")
        if job.sequences:
            for name in (PEPTIDES, FIGURE):
                if (out / name).exists():
                    tracker.artifact(out / name)
    shutil.rmtree(out / "run")
    return out


def finetune_and_report(job: FinetuneJob) -> Path:
    """Run `job`, and write the report of its final draw; of several peptides, their table."""
    try:
        out = finetune(job)
    except FloatingPointError as error:
        raise RuntimeError(str(error)) from error
    records = read_records(out)
    if not job.sequences:
        training = [{"step": job.steps * r.round, "loss": r.learning["loss"]} for r in records if "loss" in r.learning]
        print_verdict(out, evaluate_folder(out, data_folder(job.data_dir), seed=job.seed, training=training))
    for line in _conclusion(records, out):
        say(line)
    return out


def checkpoint_and_peptides(job: FinetuneJob) -> tuple[Path, Peptides]:
    """The flow to finetune, not loaded, and its peptides. Raises: ValueError for one that the flow cannot take."""
    checkpoint = models.locate(job.checkpoint, results_home())
    flow = models.checkpoint.outline(checkpoint)
    if flow.config.graph:
        raise ValueError(
            f"{checkpoint.name} is an ECNF, which learns by flow matching alone (jobs/train.py init=): give another "
            "flow as checkpoint="
        )
    check_supported(flow, job.com, smc=job.sampler == "smc" and job.objective.buffered)
    if not flow.smooth and (wrong := job.objective.active.keys() & NEED_GRADIENT):
        raise ValueError(
            f"objective {min(wrong)} needs draws that move smoothly with the parameters, and those of a flow over bins "
            "jump: give objective=self_improve, forward_kl or alpha2"
        )
    learned, others = (
        [OrderedPeptide.of(source.load(), flow) for source in sources]
        for sources in (job.sources, job.validation_sources)
    )
    for ordered in (*learned, *others):
        _check_length(checkpoint, ordered.peptide)
    return checkpoint, Peptides(learned, others)


def _check_length(checkpoint: Path, peptide: Peptide) -> None:
    """Raises: ValueError for a peptide longer than all that the flow was trained on."""
    longest = max(models.checkpoint.trained_lengths(checkpoint), default=math.inf)
    length = n_residues(peptide.sequence)
    if length > longest and peptide.encodings:
        raise ValueError(
            f"{peptide.sequence} has {length} residues, the flow {checkpoint.name} was trained on up to "
            f"{longest}: give a shorter peptide, or a flow of longer ones as checkpoint="
        )


def _conclusion(records: list[RoundRecord], out: Path) -> list[str]:
    first, last = records[0], records[-1]
    lines = [f"\nfinetuned with {last.energies} energies", f"  after:  {quality(last)}  (of {last.n} draws)"]
    if last.validation:
        apart = len(records) * sum(one["n"] for one in last.validation.values())
        lines[0] += f", and {apart} of validation"
    if first.on_target and first.draw_k == last.draw_k:
        lines.insert(1, f"  before: {quality(first)}  (of {first.n} draws)")
        lines += _changes(records, out)
    report = [f"  each peptide: {out / PEPTIDES}"] if last.peptides else [f"  report: {out / 'report.html'}"]
    return [*lines, f"  flow: {out / 'checkpoint'}", *report]


def _changes(records: list[RoundRecord], out: Path) -> list[str]:
    """Lines on what has become better, by what the flow is judged by."""
    (first, last), lines = (records[0], records[-1]), list[str]()
    best = max(records, key=lambda record: record.judged[0])
    name = "validation ESS" if last.validation else "ESS"
    if last.validation:
        better = sum(last.validation[key]["ess"] > one["ess"] for key, one in first.validation.items())
        lines.append(
            f"  validation ESS: {percent(*first.judged)} before, {percent(*last.judged)} after; "
            f"{better} of {len(last.validation)} better"
        )
    if abs(last.judged[0] - first.judged[0]) < 2 * math.hypot(first.judged[1], last.judged[1]):
        more = "raise validation_draws" if last.validation else "compare with more draws (jobs/sample.py)"
        lines.append(f"  the {name} has not changed beyond its error: {more}")
    if best is first:
        lines.append(f"  no round had a better {name} than the flow at the start: keep that, or lower optimizer.lr")
    elif best is not last:
        lines.append(f"  best after {best.round} rounds ({name} {percent(*best.judged)}): {out / 'best'}")
    return lines
