"""Training on Ray Train: every worker streams its own frames; the driver watches and keeps the result."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer, get_device

import models
from models.flow import Flow, FlowConfig

from .cluster import Cluster, ClusterConfig, cluster
from .config import claim, data_folder, flat, results_folder, write_json
from .learner import Batcher, Learner, LogDensity, TrainConfig
from .progress import progress, say
from .stream import Catalogue, DataConfig, batches, catalogue
from .tracking import Tracker

FLOW, STATE = "flow", "state.pt"


@dataclass(frozen=True, kw_only=True)
class WorkersConfig:
    """Who trains. `workers`: 0 for one a GPU, or a single one without GPUs; `threads` a worker: 0 for all cores."""

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
    settings = {k: v for k, v in flat(job).items() if not k.startswith(("cluster.", "workers.max_failures", "out"))}
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
        tracker = Tracker.open("train", out, {**settings, "parameters": parameters, "scale_nm": data.scale_nm})
        tracker.tag({"data_fingerprint": data.fingerprint})
        say(f"training {parameters / 1e6:.2f} M parameters for {job.train.steps} steps of {job.train.batch} frames")
        try:
            with watched(tracker, job.train.steps):
                _fit(job, data, out, tracker, resources)
        except KeyboardInterrupt:
            tracker.close("KILLED")
            raise
        except BaseException:
            tracker.close("FAILED")
            raise
        tracker.artifact(finished)
        tracker.close()
    say(f"trained: {finished}")
    return finished


def _fit(job: TrainJob, data: Catalogue, out: Path, tracker: Tracker, resources: Cluster) -> None:
    use_gpu = bool(resources.gpus) if job.workers.use_gpu is None else job.workers.use_gpu
    workers = job.workers.workers or (max(1, resources.gpus) if use_gpu else 1)
    if job.train.batch % workers:
        raise ValueError(f"train.batch={job.train.batch} must be a multiple of the {workers} workers")
    # On a cluster of CPUs a worker holds one of them for Ray, and computes on as many threads as it is told to:
    # the rest is left to the data tasks, which sleep most of the time.
    threads = job.workers.threads or max(1, (os.cpu_count() or 1) // (workers if resources.local else 1))
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "data": data, "threads": threads, "workers": workers},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name="ray_train",
            storage_path=str(out),
            failure_config=FailureConfig(max_failures=job.workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=job.keep),
            callbacks=[Recorder(tracker, out)],
        ),
    )
    result = trainer.fit()
    assert result.checkpoint is not None
    export(result.checkpoint, out)


class Recorder(UserCallback):
    """Lives in Ray Train's controller: metrics to MLflow, each checkpoint to where users look for it."""

    def __init__(self, tracker: Tracker, out: Path) -> None:
        self.tracker, self.out = tracker, out

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        self.tracker.log(metrics[0], step=int(metrics[0]["step"]))
        if checkpoint is not None:
            export(checkpoint, self.out)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        rank, error = next(iter(worker_exceptions.items()))
        self.tracker.tag({f"failure_{int(time.time())}": f"worker {rank}: {error!r}"})


def export(checkpoint: Checkpoint, out: Path) -> None:
    """Put the flow of a training checkpoint at out/checkpoint."""
    with checkpoint.as_directory() as folder:
        flow = models.load(Path(folder) / FLOW)
        models.save(flow, out / "checkpoint", models.weights.describe(Path(folder) / FLOW)["provenance"])


@contextmanager
def watched(tracker: Tracker, steps: int) -> Iterator[None]:
    """Show a run's progress from its metrics in MLflow, whoever writes them, wherever they run."""
    stop = threading.Event()

    def watch() -> None:
        first = tracker.latest().get("step", 0.0)
        with progress("train", steps, first) as update:
            while not stop.wait(2.0):
                latest = tracker.latest()
                if latest.get("step", 0.0) > first:
                    update(
                        latest["step"],
                        f"step {latest['step']:.0f}/{steps}  loss {latest['loss']:.3f}  "
                        f"{latest['samples_per_s']:.0f} frames/s",
                    )

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def train_worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    job: TrainJob = config["job"]
    data: Catalogue = config["data"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config["threads"])
    torch.manual_seed(job.train.seed)
    learner, batcher = _learner(job, data, world)
    restored = ray.train.get_checkpoint()
    if restored:
        with restored.as_directory() as folder:
            learner.load_state(torch.load(Path(folder) / STATE, map_location=learner.device, weights_only=True))
    stream = batches(
        data,
        batch=job.train.batch // world,
        start_step=learner.steps_done,
        stop_step=job.train.steps,
        per_window=job.data.shards_per_window,
        seed=job.train.seed,
        rank=rank,
        world=world,
    )
    since, losses = time.monotonic(), []
    for sequences, frames in stream:
        statistics = learner.step(*batcher(sequences, frames), world=world)
        losses.append(statistics["loss"])
        step = learner.steps_done
        save = step % job.checkpoint_every == 0 or step == job.train.steps
        if save or step % job.log_every == 0 or step == 1:
            learner.check()
            loss = torch.stack(losses).mean()
            if world > 1:
                torch.distributed.all_reduce(loss)
            elapsed = time.monotonic() - since
            metrics = {
                "step": step,
                "loss": float(loss),
                "grad_norm": float(statistics["grad_norm"]),
                "lr": learner.schedule.get_last_lr()[0],
                "samples_per_s": len(losses) * job.train.batch / elapsed,
                "epoch": step * job.train.batch / data.n_frames,
                "skipped_steps": float(learner.bad),
            }
            if save:
                _report_checkpoint(learner, job, data, metrics, rank)
            else:
                ray.train.report(metrics)
            since, losses = time.monotonic(), []


def _learner(job: TrainJob, data: Catalogue, world: int) -> tuple[Learner, Batcher]:
    flow = Flow(job.model, data.scale_nm)
    device = get_device()
    model: torch.nn.Module = LogDensity(flow.to(device))
    if world > 1:
        model = torch.nn.parallel.DistributedDataParallel(model)
    return Learner(flow, job.train, device=device, model=model), Batcher(flow, data.peptides())


def _report_checkpoint(learner: Learner, job: TrainJob, data: Catalogue, metrics: dict[str, Any], rank: int) -> None:
    """Report with a checkpoint from rank 0; every rank must call it."""
    if rank:
        ray.train.report(metrics)
        return
    folder = Path(tempfile.mkdtemp())
    try:
        provenance = {
            "step": learner.steps_done,
            "data_fingerprint": data.fingerprint,
            "sequences": sorted(data.pdbs)[:1000],
            "train": asdict(job.train),
        }
        models.save(learner.averaged(), folder / FLOW, provenance)
        torch.save(learner.state(), folder / STATE)
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(str(folder)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
