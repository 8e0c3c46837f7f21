"""Trials under Ray Tune: the function that runs one, the resources it reserves, the scheduler that stops it."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from ..finetuning.finetune import finetune
from ..finetuning.round_record import RoundRecord
from ..runtime.background import run_in_thread
from ..runtime.cluster import Cluster
from ..runtime.stopping import GRACE_S, was_stopped
from ..runtime.tracking import Tracker
from ..sampling.flow_actors import actor_resources
from .callbacks import Records
from .config import MODES, Metric, SweepJob, Trial
from .outcomes import ENDED, Outcome, scheduler_score

POLL_S = 2.0  # of all trials' folders
PARTING_S = 20.0  # for trials to be stopped after Ctrl-C


def run_trial(
    config: dict[str, Any], tasks: dict[int, Trial], metric: Metric, env: dict[str, str], parent: Tracker
) -> None:
    """Run one trial, in a process of Tune; each round is reported, the last one when the flow is safe in its folder."""
    os.environ.update(env)
    job = tasks[config["number"]].job
    last: dict[str, Any] = {}

    def report(row: dict[str, Any]) -> None:
        nonlocal last
        last = {
            "row": row,
            "energies": row["energies"],
            metric: scheduler_score(RoundRecord.from_json(row), job, metric),
        }
        if not row["final"]:  # Tune may stop the trial in `report`
            tune.report(last)

    try:
        finetune(job, report, parent)
    except FloatingPointError as error:
        last |= {"diverged": str(error), metric: math.nan}
    tune.report({"energies": 0, **last, "final": True})


def placement(job: SweepJob, trial: Trial, resources: Cluster) -> tuple[list[dict[str, float]], int]:
    """Return the resources that one trial reserves, all or nothing, and how many trials run at a time.

    Raises: ValueError when not even one fits.
    """
    if job.in_process:
        gpus = job.trial_gpus if job.trial_gpus is not None else float(resources.gpus > 0)
        bundles = [{"CPU": 1.0} | ({"GPU": gpus} if gpus else {})]
    else:
        actors = actor_resources(trial.job.actors, trial.job.energy, resources)
        bundles = [{"CPU": 1.0}, *[actors.flow] * actors.n_flow, *[{"CPU": actors.energy_cpus}] * actors.n_energy]
    need = {kind: sum(b.get(kind, 0.0) for b in bundles) for kind in ("CPU", "GPU")}
    have = {"CPU": resources.cpus, "GPU": resources.gpus}
    most = min(int(have[kind] / need[kind] + 1e-9) for kind in need if need[kind])
    if most < 1:
        raise ValueError(
            f"a trial takes {need['CPU']:g} CPUs and {need['GPU']:g} GPUs, the cluster has {have['CPU']} and "
            f"{have['GPU']}: lower trial_gpus, or the replicas of actors, or leave in_process=true"
        )
    return bundles, min(job.at_once or most, most)


def scheduler(job: SweepJob, found: Sequence[Outcome]) -> TrialScheduler:
    """Return ASHA by energies spent, which remembers the rounds of trials that ended under earlier drivers."""
    if job.scheduler == "none":
        return FIFOScheduler()
    first = job.grace or min(o.trial.job.plan.until_judged for o in found)
    asha = ASHAScheduler(
        time_attr="energies",
        metric=job.metric,
        mode=MODES[job.metric],
        grace_period=min(first, job.budget),
        max_t=job.budget,
        reduction_factor=job.reduction,
    )
    # Tune has no way to tell a scheduler of results from elsewhere. This leans on how Ray 2.60 is written: ASHA keeps
    # the first result at or above each rung by `trial.trial_id`; on_trial_add and on_trial_result read nothing else of
    # a trial and nothing of the controller; its cutoff is a nanpercentile, and NaN is never below it.
    # test_the_worse_are_stopped_at_equal_energies_and_a_later_driver_knows fails if that changes.
    for o in found:
        if o.status in ENDED:
            known: Any = SimpleNamespace(trial_id=o.trial.name)
            asha.on_trial_add(None, known)  # type: ignore[arg-type]  # neither asks the controller
            for record in o.rounds:
                result = {"energies": record.energies, job.metric: scheduler_score(record, o.trial.job, job.metric)}
                asha.on_trial_result(None, known, result)  # type: ignore[arg-type]
    return asha


def watched(fit: Callable[[], Any], records: Records, poll: Callable[[], None]) -> None:
    """Run `fit` and poll meanwhile; after Ctrl-C or SIGTERM, wait for the trials to be stopped."""
    tuning = run_in_thread(fit)
    try:
        while not wait([tuning], timeout=POLL_S).done:
            poll()
    except BaseException:  # Ctrl-C, or the disk is full
        records.interrupted = True
        wait([tuning], timeout=GRACE_S / 2 if was_stopped() else PARTING_S)
        raise
    tuning.result()
