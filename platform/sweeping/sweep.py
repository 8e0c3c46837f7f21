"""Run a sweep over finetuning: Ray Tune runs the trials, their folders hold the results, the driver aggregates them."""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune

from boltzray import models

from ..evaluation.reference import find_comparable
from ..finetuning.finetune import checkpoint_and_peptides
from ..runtime.cluster import Cluster, cluster
from ..runtime.config import data_folder, results_folder
from ..runtime.progress import progress, say
from ..runtime.run_folder import check_or_record_settings, contents, deciding, holding
from ..runtime.tracking import Tracker, warn_on_error
from .callbacks import Records
from .config import SweepJob, environment, trials
from .outcomes import ENDED, STATE, Outcome, best, command, outcome, write_configuration, write_tables
from .sweep_page import write_sweep_report
from .tune import placement, run_trial, scheduler, watched

__all__ = ["SweepJob", "sweep"]

# Keys that may differ when a sweep goes on: none of them changes a trial's results.
INCIDENTAL = (
    "cluster.",
    "actors.",
    "at_once",
    "trial_gpus",
    "max_failures",
    "in_process",
    "checkpoint_s",
    "out",
    "resume",
)


def sweep(job: SweepJob) -> Path:
    """Run or continue `job`; returns its folder, with `sweep.html`, `results.csv` and the trials.

    A trial is one `finetune` in a folder of its own, from which it goes on: after Ctrl-C, or when the driver, a node or
    the trial died. So Tune's own state is not needed, and a sweep may go on with more cores than it began with.
    """
    with holding(results_folder(job.folder)) as out:
        return _sweep_into(out, job)


def _sweep_into(out: Path, job: SweepJob) -> Path:
    began = (out / "sweep.json").exists()
    if began and job.resume in ("never", False):
        raise ValueError(f"{out} holds a sweep, and resume=never: give another out=, or resume=auto to go on with it")
    if not began and job.resume is True:
        raise ValueError(f"{out} holds no sweep to go on with: give its out=, or leave resume=true away to begin one")
    planned = trials(job, out)
    settings = _settings(job)
    check_or_record_settings(out, "sweep", settings)
    for trial in planned:
        write_configuration(trial)
    found = [outcome(trial) for trial in planned]
    if all(o.status in ENDED for o in found):
        say(f"already swept: {finish(job, out, found)}")
        return out
    with (
        Tracker.open("sweep", out, {**settings, "trials": len(planned)}) as tracker,
        cluster(job.cluster, dashboard=True) as resources,
    ):
        records = Records(planned, tracker)
        try:
            _run(job, out, found, records, resources)
        finally:
            records.close()
        found = [outcome(trial) for trial in planned]
        page = finish(job, out, found)
        with warn_on_error("keeping the report"):
            for path in (page, out / "results.csv", out / "rounds.parquet"):
                tracker.artifact(path)
    _summarise(job, out, found, page)
    return out


def _settings(job: SweepJob) -> dict[str, Any]:
    """Return the settings that decide the results, checked as far as possible before anything is started."""
    checkpoint, (learned, _) = checkpoint_and_peptides(job)
    peptide = learned[0].peptide
    fingerprint = models.checkpoint.fingerprint(checkpoint)
    files = dict(job.files)
    if job.metric == "energy_w2":
        found = find_comparable(peptide, data_folder(job.data_dir), job.temperature_k)
        if found.trajectory is None:
            raise ValueError(f"metric=energy_w2 needs reference MD to compare with, or give metric=ess: {found.note}")
        files["reference"] = found.path
    return deciding(job, INCIDENTAL) | contents(files) | {"weights_sha256": fingerprint}


def finish(job: SweepJob, out: Path, found: Sequence[Outcome]) -> Path:
    """Write tables and report of the results so far; returns the report."""
    write_tables(out, found)
    top = best(found, job.metric)
    return write_sweep_report(out, job, found, command(top.trial, out) if top else "")


def _summarise(job: SweepJob, out: Path, found: Sequence[Outcome], page: Path) -> None:
    counts = Counter(o.status for o in found)
    say("swept: " + ", ".join(f"{n} {status}" for status, n in counts.items()))
    for o in found:
        if o.status in ("diverged", "failed"):
            say(f"  {o.trial.name} {o.status}: {o.message}")
    if top := best(found, job.metric):
        say(f"best: {top.trial.name}, {described(top, job)}\n  {command(top.trial, out)}")
    say(f"report: {page}")


def described(o: Outcome, job: SweepJob) -> str:
    """Format the metric of a trial."""
    value = o.score(job.metric)
    return f"ESS {100 * value:.3g} %" if job.metric == "ess" else f"energy W2 {value:.3g} kT"


def _run(job: SweepJob, out: Path, found: Sequence[Outcome], records: Records, resources: Cluster) -> None:
    """Run all trials that have not ended yet."""
    left = {o.trial.number: o.trial for o in found if o.status not in ENDED}
    for trial in left.values():
        (trial.folder / STATE).unlink(missing_ok=True)  # of those that failed
    bundles, at_once = placement(job, next(iter(left.values())), resources)
    say(
        f"sweeping {len(found)} trials of {job.budget} energies, {min(at_once, len(left))} at a time"
        + (f"; {len(found) - len(left)} ended earlier" if len(left) < len(found) else "")
    )
    shutil.rmtree(out / "tune", ignore_errors=True)  # of an earlier driver
    os.environ |= {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
    }  # progress and ends are printed here
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    trainable = tune.with_parameters(
        run_trial, tasks=left, metric=job.metric, env=environment(), parent=records.tracker
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory(bundles)),
        param_space={"number": tune.grid_search(sorted(left))},
        tune_config=tune.TuneConfig(
            scheduler=scheduler(job, found),
            max_concurrent_trials=at_once,
            reuse_actors=job.in_process,  # a process needs seconds to import torch; one with actors ends with them
            trial_name_creator=lambda t: left[t.config["number"]].name,
            trial_dirname_creator=lambda t: left[t.config["number"]].name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(out),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=job.max_failures),
            callbacks=[records],
        ),
    )
    total = len(found) * job.budget
    with progress("sweep", total, _spent(job, found)) as update:
        ended = -1

        def poll() -> None:  # not in Records: Tune's own thread must not wait for figures to be plotted
            nonlocal ended
            now = [outcome(o.trial) for o in found]
            if ended < (ended := sum(o.status in (*ENDED, "failed") for o in now)):
                finish(job, out, now)
                records.best(ended, best(now, job.metric), job.metric)
            top = best(now, job.metric)
            note = f"{ended} of {len(now)} ended, {len(records.running)} running"
            update(_spent(job, now), note + (f", best {top.trial.name}: {described(top, job)}" if top else ""))

        watched(tuner.fit, records, poll)
        poll()
    shutil.rmtree(out / "tune", ignore_errors=True)


def _spent(job: SweepJob, found: Sequence[Outcome]) -> int:
    """Energies done with: an ended trial counts with its whole budget."""
    return sum(job.budget if o.status in (*ENDED, "failed") else o.energies for o in found)
