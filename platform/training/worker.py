"""What each Ray Train worker runs. It imports no more than that: workers start in seconds."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Thread
from typing import Any

import ray
import ray.train
import ray.train.collective
import torch
from ray.train.torch import get_device

from boltzray.models.config import FlowConfig
from boltzray.models.flow import Flow

from ..data.catalogue import Catalogue
from ..data.collate import Collator, prefetch
from ..data.stream import Batch, BatchServer, batches
from ..data.windows import BatchPlan
from ..runtime.cluster import usable_cpus
from ..runtime.telemetry import count
from .checkpoints import Saved, report_checkpoint, restore
from .train_step import Learner, LogDensity, TrainConfig

FATAL = "fatal"  # the metric that says why a run ended early
PROBLEMS = "problems"  # the metric with new lines about bad data


@dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """All that a worker must know: the same for every rank."""

    model: FlowConfig
    train: TrainConfig
    order: BatchPlan
    checkpoint_every: int
    log_every: int
    threads: int


def _end_with(raylet: int) -> None:
    """Without its raylet a worker that was writing a checkpoint would wait for that forever, and keep its memory."""
    while os.getppid() == raylet:
        time.sleep(5)
    os._exit(1)


def train_worker(config: dict[str, Any]) -> None:
    """Train from the last checkpoint, if there is one, to the end."""
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    task: WorkerTask = config["task"]
    data: Catalogue = ray.get(config["data"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(task.threads or max(1, usable_cpus() // context.get_local_world_size()))
    learner, collator = _learner(task, data, world)
    saved = restore(learner)
    feeder = _feeder(task, config["data"], world, saved)

    def work() -> Iterator[tuple[Batch, list[Any]]]:
        for batch in batches(feeder, rank, learner.steps_done, task.order, saved.start):
            yield batch, [collator.batch(part) for part in batch.parts]

    if learner.steps_done < task.train.steps:
        stream = prefetch(work())
        try:
            _train(learner, stream, task, data, saved.problems, rank, world)
        finally:
            stream.close()  # type: ignore[attr-defined]


def _train(
    learner: Learner,
    stream: Iterator[tuple[Batch, list[Any]]],
    task: WorkerTask,
    data: Catalogue,
    problems: list[str],
    rank: int,
    world: int,
) -> None:
    """The loop: nothing in it waits for the device but what is reported, every `log_every` steps."""
    since, losses, new = time.monotonic(), [], []
    for batch, parts in stream:
        new += batch.problems
        if batch.failure:  # it would fail again: no reason to restart the workers
            ray.train.report({"step": learner.steps_done, FATAL: batch.failure, PROBLEMS: new})
            return
        statistics = learner.train_step(parts, world)
        losses.append(statistics["loss"])
        count("boltzray_frames", sum(len(part.peptide) for part in batch.parts))
        count("boltzray_tokens", sum(part.x.size // 3 for part in batch.parts))
        step = learner.steps_done
        save = step % task.checkpoint_every == 0 or step == task.train.steps
        if save or step % task.log_every == 0 or step == 1:
            try:
                learner.check()
            except FloatingPointError as error:
                ray.train.report({"step": step, FATAL: str(error)})
                return
            save = save or ray.train.get_preemption_info() is not None  # the node is about to be taken away
            metrics = {
                "step": step,
                "loss": float(torch.stack(losses).mean()),
                "grad_norm": float(statistics["grad_norm"]),
                "lr": learner.schedule.get_last_lr()[0],
                "samples_per_s": len(losses) * task.train.batch / (time.monotonic() - since),
                "epoch": step * task.train.batch / data.n_frames,
                "skipped_steps": float(learner.bad),
                "bad_data": len(problems) + len(new),
                PROBLEMS: new,
            }
            problems = problems + new
            if save and rank == 0:
                report_checkpoint(learner, Saved(batch.start, problems), data, metrics)
            else:  # every rank reports equally often
                ray.train.report(metrics)
            since, losses, new = time.monotonic(), [], []
        if step == task.train.steps:
            return


def _learner(task: WorkerTask, data: Catalogue, world: int) -> tuple[Learner, Collator]:
    torch.manual_seed(task.train.seed)
    flow = Flow(task.model, data.scale_nm)
    device = get_device()
    model: torch.nn.Module = LogDensity(flow.to(device))
    if world > 1:
        model = torch.nn.parallel.DistributedDataParallel(model)
    peptides = {peptide.sequence: peptide for peptide in data.peptides}
    return Learner(flow, task.train, device=device, model=model), Collator(flow, peptides, pin=device.type == "cuda")


def _feeder(task: WorkerTask, data: Any, world: int, saved: Saved) -> Any:
    """Where batches come from: an object here, or for several workers an actor that ends with the first of them."""
    if world == 1:
        return BatchServer(ray.get(data), task.order, 1, saved.start, saved.problems)
    actor = None
    if ray.train.get_context().get_world_rank() == 0:
        actor = ray.remote(num_cpus=0)(BatchServer).remote(data, task.order, world, saved.start, saved.problems)
    return ray.train.collective.broadcast_from_rank_zero(actor)
