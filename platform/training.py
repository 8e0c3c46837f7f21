"""Training on Ray Train: every worker streams its own frames; the driver watches and keeps the result."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import WorkerGroupError

import models
from models.config import FlowConfig
from models.flow import Flow

from .cluster import Cluster, ClusterConfig, cluster
from .config import claim, data_folder, flat, results_folder, write_json
from .learner import TrainConfig
from .progress import progress, say
from .stream import Catalogue, DataConfig, catalogue
from .tracking import Tracker, forgiven
from .train_worker import FATAL, FLOW, WorkerTask, train_worker

# What a run may go on with changed.
INCIDENTAL = (
    *("cluster.", "out", "checkpoint_every", "log_every", "keep"),
    *("workers.threads", "workers.use_gpu", "workers.max_failures"),
)


@dataclass(frozen=True, kw_only=True)
class WorkersConfig:
    """Who trains.

    `workers`: 0 for one a GPU, or a single one without GPUs. `threads` of each: 0 for its share of the cores.
    """

    workers: int = 0
    use_gpu: bool | None = None
    threads: int = 0
    max_failures: int = 10


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """Train a flow on the shards of a data folder."""

    out: str = "outputs/train"
    data: DataConfig = field(default_factory=DataConfig)
    model: FlowConfig = field(default_factory=FlowConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    checkpoint_every: int = 1000
    log_every: int = 20
    keep: int = 2

    def __post_init__(self) -> None:
        if min(self.checkpoint_every, self.log_every, self.keep) < 1:
            raise ValueError("checkpoint_every, log_every and keep must be at least 1")


def train(job: TrainJob) -> Path:
    """Run or continue the training of `job.out`; returns the folder of the finished checkpoint.

    Ctrl-C stops it between two steps; the same command goes on from the last checkpoint.
    """
    out = results_folder(job.out)
    settings = {k: v for k, v in flat(job).items() if not k.startswith(INCIDENTAL)}
    with cluster(job.cluster) as resources:
        data = catalogue(job.data, data_folder(job.data.path))
        claim(out, "train", {**settings, "data_fingerprint": data.fingerprint})
        write_json(out / "data.json", {**asdict(data), "pdbs": sorted(data.pdbs), "frames_total": data.n_frames})
        say(
            f"{data.n_frames} frames of {len(data.pdbs)} peptides in {len(data.shards)} shards, σ = {data.scale_nm} nm"
            + (f", {len(data.problems)} frames left out (named in {out / 'data.json'})" if data.problems else "")
        )
        finished = out / "checkpoint"
        if finished.exists() and models.weights.describe(finished)["provenance"]["step"] >= job.train.steps:
            say(f"already trained: {finished}")
            return finished
        parameters = sum(p.numel() for p in Flow(job.model).parameters())
        with Tracker.open("train", out, {**settings, "parameters": parameters, "scale_nm": data.scale_nm}) as tracker:
            tracker.tag({"data_fingerprint": data.fingerprint})
            say(f"training {parameters / 1e6:.2f} M parameters for {job.train.steps} steps of {job.train.batch} frames")
            trainer = _trainer(job, data, out, tracker, resources)
            (out / FATAL).unlink(missing_ok=True)
            try:
                result = watched(trainer.fit, tracker, job.train.steps)
            except WorkerGroupError as error:
                rank, cause = next(iter(error.worker_failures.items()))
                raise RuntimeError(f"worker {rank} failed more than workers.max_failures times: {cause}") from error
            if (out / FATAL).exists():
                raise RuntimeError((out / FATAL).read_text())
            export(result.checkpoint, out)
            tracker.artifact(finished)
    say(f"trained: {finished}")
    return finished


def _trainer(job: TrainJob, data: Catalogue, out: Path, tracker: Tracker, resources: Cluster) -> TorchTrainer:
    use_gpu = bool(resources.gpus) if job.workers.use_gpu is None else job.workers.use_gpu
    workers = job.workers.workers or (max(1, resources.gpus) if use_gpu else 1)
    if job.train.batch % workers:
        raise ValueError(f"train.batch={job.train.batch} must be a multiple of the {workers} workers")
    task = WorkerTask(
        data=data,
        model=job.model,
        train=job.train,
        shards_per_window=job.data.shards_per_window,
        checkpoint_every=job.checkpoint_every,
        log_every=job.log_every,
        threads=job.workers.threads,
    )
    # A worker holds one CPU for Ray, or less where there are few, and computes on its share of the machine's cores:
    # the rest is left to the data tasks, which sleep most of the time.
    cpus = 1.0 if resources.cpus > workers else 0.5 * resources.cpus / workers
    return TorchTrainer(
        train_worker,
        train_loop_config={"task": task},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker={"CPU": cpus}),
        run_config=RunConfig(
            name="ray_train",
            storage_path=str(out),
            failure_config=FailureConfig(max_failures=job.workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=job.keep),
            callbacks=[Recorder(tracker, out)],  # type: ignore[list-item]
        ),
    )


class Recorder(UserCallback):
    """Lives in Ray Train's controller: metrics to MLflow, each checkpoint to where users look for it."""

    def __init__(self, tracker: Tracker, out: Path) -> None:
        self.tracker, self.out = tracker, out

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        if FATAL in metrics[0]:
            (self.out / FATAL).write_text(metrics[0][FATAL])
            return
        with forgiven("recording metrics"):
            self.tracker.log(metrics[0], step=int(metrics[0]["step"]))
        if checkpoint is not None:
            export(checkpoint, self.out)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        rank, error = next(iter(worker_exceptions.items()))
        with forgiven("recording a failure"):
            self.tracker.tag({f"failure_{int(time.time())}": f"worker {rank}: {error!r}"})


def export(checkpoint: Checkpoint, out: Path) -> None:
    """Put the flow of a training checkpoint at out/checkpoint."""
    with checkpoint.as_directory() as folder:
        flow = models.load(Path(folder) / FLOW)
        models.save(flow, out / "checkpoint", models.weights.describe(Path(folder) / FLOW)["provenance"])


def watched(fit: Callable[[], Any], tracker: Tracker, steps: int) -> Any:
    """What `fit` returns, showing meanwhile the run's metrics in MLflow, whoever writes them, wherever they run.

    `fit` runs in a thread of its own: in the main thread Ray Train would take Ctrl-C for itself, and keep it.
    """
    outcome: Future[Any] = Future()

    def work() -> None:
        try:
            outcome.set_result(fit())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    first = tracker.latest().get("step", 0.0)
    with progress("train", steps, first) as update:
        while not wait([outcome], timeout=2.0).done:
            with forgiven("reading the progress"):
                latest = tracker.latest()
                if latest.get("step", 0.0) > first:
                    speed = f"{latest['samples_per_s']:.0f} frames/s"
                    update(latest["step"], f"step {latest['step']:.0f}/{steps}  loss {latest['loss']:.3f}  {speed}")
    return outcome.result()
