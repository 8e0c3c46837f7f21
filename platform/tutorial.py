"""Run the whole pipeline on one small peptide: MD, training, sampling, report."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from .evaluation.evaluate import evaluate_folder, print_verdict
from .runtime.cluster import ClusterConfig, cluster
from .runtime.config import data_folder
from .runtime.progress import duration, say
from .runtime.tracking import Tracker
from .sampling.sample import SampleJob, sample
from .simulation.simulate import SimulateJob, simulate
from .training.train import TrainJob, train


@dataclass(frozen=True, kw_only=True)
class TutorialJob:
    """One job of each kind, one after the other in one cluster."""

    simulate: SimulateJob
    train: TrainJob
    sample: SampleJob
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


def tutorial(job: TutorialJob) -> None:
    """Run all; each part is resumed, or skipped when it is done."""
    started = time.monotonic()
    with cluster(job.cluster, dashboard=True):  # which training needs
        say("\n1/4  molecular dynamics")
        data = simulate(job.simulate)
        say("\n2/4  training")
        train(job.train)
        say("\n3/4  sampling")
        out = sample(job.sample)
    say("\n4/4  report")
    run = Tracker.find(data_folder(job.train.out))
    training = [{"step": s, "loss": loss} for s, loss in run.history("loss")] if run else None
    result = evaluate_folder(out, data_folder(job.sample.data_dir), seed=job.sample.seed, training=training)
    print_verdict(out, result)
    _print_paths(data, out, job, time.monotonic() - started)


def _print_paths(data: Path, out: Path, job: TutorialJob, seconds: float) -> None:
    rows = [
        ("report", out / "report.html"),
        ("ensemble", out / "ensemble.xtc"),
        ("weights", out / "samples.npz"),
        ("flow", data_folder(job.train.out) / "checkpoint"),
        ("data", data),
    ]
    say(f"\ndone in {duration(seconds)}")
    for name, path in rows:
        say(f"  {name:<9} {path}")
    say("  curves    make ui")
