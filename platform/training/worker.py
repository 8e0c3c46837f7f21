"""Training loop of a Ray Train worker. It imports no more than that needs: workers start in seconds."""

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

from boltzray import models
from boltzray.models.config import FlowConfig
from boltzray.models.flow import Flow
from boltzray.models.vocabulary import train_added_only, widen
from boltzray.molecules.tars import Problem

from ..data.catalogue import Catalogue
from ..data.collate import Collator
from ..data.prefetch import prefetch
from ..data.stream import BatchServer, StepMicrobatches, batches
from ..data.windows import BatchPlan
from ..runtime.cluster import usable_cpus
from ..runtime.cpu_affinity import keep_memory
from ..runtime.telemetry import count
from .checkpoints import DataState, Start, report_checkpoint, restore
from .train_step import Learner, LogDensity, TrainConfig

# The metric that says why a run cannot go on (too many bad frames, no finite loss). Not an exception: Ray Train would
# restart the workers `workers.max_failures` times, each time to fail on the same step. So the workers report it and
# end well; `Recorder` in the controller writes it to a file of this name, and `train` raises it once fit() is back.
FATAL = "fatal"
PROBLEMS = "problems"  # the metric with lines about bad data that is new


@dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """Settings of a worker: the same for every rank. `start`: the flow it begins with, else an untrained one."""

    model: FlowConfig
    start: Start | None
    train: TrainConfig
    plan: BatchPlan
    checkpoint_every: int
    log_every: int
    threads: int


def _end_with(raylet: int) -> None:
    """End this process with its raylet: a worker that was writing a checkpoint would wait for that forever."""
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
    keep_memory()
    torch.set_num_threads(task.threads or max(1, usable_cpus() // context.get_local_world_size()))
    learner, collator = _learner(task, data, world)
    restored = restore(learner)
    server = _batch_server(task, config["data"], world, restored)

    def collated() -> Iterator[tuple[StepMicrobatches, list[Any]]]:
        for step in batches(server, rank, learner.steps_done, task.plan, restored.start):
            yield step, [collator.batch(microbatch) for microbatch in step.microbatches]

    if learner.steps_done < task.train.steps:
        stream = prefetch(collated())
        try:
            _train(learner, stream, task, data, restored.problems, rank, world)
        finally:
            stream.close()  # type: ignore[attr-defined]


def _train(
    learner: Learner,
    stream: Iterator[tuple[StepMicrobatches, list[Any]]],
    task: WorkerTask,
    data: Catalogue,
    problems: list[Problem],
    rank: int,
    world: int,
) -> None:
    """Train to the last step: nothing waits for the device but what is reported, every `log_every` steps.

    `problems`: those that earlier starts of the run have reported.
    """
    since, losses, spreads = time.monotonic(), [], []
    new: list[Problem] = []
    for batch, microbatches in stream:
        new += batch.problems
        if batch.failure:
            metrics = {"step": learner.steps_done, FATAL: batch.failure, PROBLEMS: [str(problem) for problem in new]}
            ray.train.report(metrics)
            return
        statistics = learner.train_step(microbatches, world)
        losses.append(statistics["loss"])
        if "log_w_spread" in statistics:
            spreads.append(statistics["log_w_spread"])
        count("boltzray_frames", sum(len(microbatch.peptide) for microbatch in batch.microbatches))
        count("boltzray_tokens", sum(microbatch.x.size // 3 for microbatch in batch.microbatches))
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
                **({"log_w_spread": float(torch.stack(spreads).mean())} if spreads else {}),
                "grad_norm": float(statistics["grad_norm"]),
                "lr": learner.schedule.get_last_lr()[0],
                "samples_per_s": len(losses) * task.train.batch / (time.monotonic() - since),
                "epoch": step * task.train.batch / data.n_frames,
                "skipped_steps": float(learner.bad),
                "bad_data": len(problems) + len(new),
                PROBLEMS: [str(problem) for problem in new],
            }
            problems = problems + new
            if save and rank == 0:
                report_checkpoint(learner, DataState(batch.start, problems), data, task.start, metrics)
            else:  # every rank reports equally often
                ray.train.report(metrics)
            since, losses, spreads, new = time.monotonic(), [], [], []
        if step == task.train.steps:
            return


def _learner(task: WorkerTask, data: Catalogue, world: int) -> tuple[Learner, Collator]:
    torch.manual_seed(task.train.seed)
    if task.start:
        flow = widen(models.load(task.start.checkpoint), task.model)
        if task.train.added_only:
            train_added_only(flow)
    else:
        flow = Flow(task.model, data.scale_nm, data.geometry)
    if flow.config.coordinates == "internal" and not flow.config.system:
        flow.atom_order = "named"
    device = get_device()
    model: torch.nn.Module = LogDensity(flow.to(device))
    if world > 1:
        model = torch.nn.parallel.DistributedDataParallel(model)
    peptides = {peptide.sequence: peptide for peptide in data.peptides}
    return Learner(flow, task.train, device=device, model=model), Collator(flow, peptides, pin=device.type == "cuda")


def _batch_server(task: WorkerTask, data: Any, world: int, restored: DataState) -> Any:
    """The batch server: an object here, or for several workers an actor that ends with the first of them."""
    if world == 1:
        return BatchServer(ray.get(data), task.plan, 1, restored.start, restored.problems)
    actor = None
    if ray.train.get_context().get_world_rank() == 0:
        actor = ray.remote(num_cpus=0)(BatchServer).remote(data, task.plan, world, restored.start, restored.problems)
    return ray.train.collective.broadcast_from_rank_zero(actor)
