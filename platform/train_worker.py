"""What each Ray Train worker runs. It imports no more than that: workers start in seconds."""

import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint
from ray.train.torch import get_device

import models
from models.config import FlowConfig
from models.flow import Flow

from .cluster import usable_cpus
from .learner import Batcher, Learner, LogDensity, TrainConfig
from .stream import Catalogue, batches

FLOW, STATE = "flow", "state.pt"
FATAL = "fatal"  # the metric that says why a run ended early


@dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """All that a worker must know: the same for every rank."""

    data: Catalogue
    model: FlowConfig
    train: TrainConfig
    shards_per_window: int
    checkpoint_every: int
    log_every: int
    threads: int


def train_worker(config: dict[str, Any]) -> None:
    """Train from the last checkpoint, if there is one, to the end."""
    task: WorkerTask = config["task"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(task.threads or max(1, usable_cpus() // context.get_local_world_size()))
    learner, batcher = _learner(task, world)
    restored = ray.train.get_checkpoint()
    if restored:
        with restored.as_directory() as folder:
            learner.load_state(torch.load(Path(folder) / STATE, map_location=learner.device, weights_only=True))
    stream = batches(
        task.data,
        batch=task.train.batch // world,
        start_step=learner.steps_done,
        stop_step=task.train.steps,
        per_window=task.shards_per_window,
        seed=task.train.seed,
        rank=rank,
        world=world,
    )
    since, losses = time.monotonic(), []
    for sequences, frames in stream:
        statistics = learner.step(*batcher(sequences, frames), world=world)
        losses.append(statistics["loss"])
        step = learner.steps_done
        save = step % task.checkpoint_every == 0 or step == task.train.steps
        if save or step % task.log_every == 0 or step == 1:
            try:
                learner.check()
            except FloatingPointError as error:  # it would fail again: no reason to restart the workers
                ray.train.report({"step": step, FATAL: str(error)})
                return
            loss = torch.stack(losses).mean()
            if world > 1:
                torch.distributed.all_reduce(loss)
            metrics = {
                "step": step,
                "loss": float(loss),
                "grad_norm": float(statistics["grad_norm"]),
                "lr": learner.schedule.get_last_lr()[0],
                "samples_per_s": len(losses) * task.train.batch / (time.monotonic() - since),
                "epoch": step * task.train.batch / task.data.n_frames,
                "skipped_steps": float(learner.bad),
            }
            if save and rank == 0:
                _report_checkpoint(learner, task, metrics)
            else:  # every rank reports equally often
                ray.train.report(metrics)
            since, losses = time.monotonic(), []


def _learner(task: WorkerTask, world: int) -> tuple[Learner, Batcher]:
    torch.manual_seed(task.train.seed)
    flow = Flow(task.model, task.data.scale_nm)
    device = get_device()
    model: torch.nn.Module = LogDensity(flow.to(device))
    if world > 1:
        model = torch.nn.parallel.DistributedDataParallel(model)
    return Learner(flow, task.train, device=device, model=model), Batcher(flow, task.data.peptides())


def _report_checkpoint(learner: Learner, task: WorkerTask, metrics: dict[str, Any]) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        provenance = {
            "step": learner.steps_done,
            "data_fingerprint": task.data.fingerprint,
            "sequences": sorted(task.data.pdbs)[:1000],
            "train": asdict(task.train),
        }
        models.save(learner.averaged(), folder / FLOW, provenance)
        torch.save(learner.state(), folder / STATE)
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(str(folder)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
