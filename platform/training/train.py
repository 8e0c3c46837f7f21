"""Training on Ray Train: every worker streams its own frames; the driver watches and keeps the result."""

import math
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import RayActorError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import WorkerGroupError

from boltzray import models
from boltzray.models.config import BIN_SETTINGS, FlowConfig
from boltzray.models.flow import Flow
from boltzray.molecules.molecule import Molecule
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.storage import DamagedFile, is_url, read_json
from boltzray.molecules.zmatrix import geometry_version, widened

from ..data.catalogue import Catalogue, DataConfig, inspect_data, list_folder, read_pdbs
from ..data.windows import BatchPlan
from ..runtime.background import run_in_thread
from ..runtime.cluster import Cluster, ClusterConfig, cluster
from ..runtime.config import data_folder, results_folder, results_home, write_json
from ..runtime.progress import progress, say
from ..runtime.run_folder import check_or_record_settings, deciding, holding
from ..runtime.tracking import Tracker, warn_on_error
from .checkpoints import Start, export, latest_step, set_damaged_aside
from .process_group import ProcessGroupConfig
from .recorder import Recorder
from .train_step import TrainConfig
from .validation import ValidationConfig, Validator
from .worker import FATAL, WorkerTask, train_worker

POLL_S = 2.0  # of the progress, and of the validation

# Settings that may change when a run goes on: batches do not depend on who computes them, and a fingerprint tells the
# data.
INCIDENTAL = (
    *("data.path", "init"),
    *("cluster.", "workers.", "validation.", "out", "resume", "checkpoint_every", "log_every", "keep"),
    *("train.accumulate", "train.checkpointing", "train.compile", "data.max_bad_share"),
)


@dataclass(frozen=True, kw_only=True)
class WorkersConfig:
    """Workers of the training, and the failures that they may have.

    `workers`: 0 for one a GPU, or a single one without GPUs; with `min_workers` a run goes on with as few when nodes
    are missing, and takes more when they come back. `threads` of each: 0 for an equal part of the cores.
    `max_failures`: deaths of workers or nodes; `max_preemptions`: nodes that were announced to go, -1 for any number.
    """

    workers: int = 0
    min_workers: int = 0
    use_gpu: bool | None = None
    threads: int = 0
    max_failures: int = 10
    max_preemptions: int = -1

    def __post_init__(self) -> None:
        if min(self.workers, self.min_workers, self.threads) < 0:
            raise ValueError("workers, min_workers and threads cannot be negative: 0 stands for automatic")


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """Train a flow on the shards of a data folder.

    `init`: a checkpoint to start from, with its size, its scale and its usual bonds and angles, whatever `model` says.
    `resume`: `auto` goes on from the last checkpoint of `out`, `never` refuses a folder that has one. The last `keep`
    checkpoints stay.
    """

    out: str = "outputs/train"
    init: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    model: FlowConfig = field(default_factory=FlowConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    checkpoint_every: int = 200
    log_every: int = 20
    keep: int = 2
    resume: Literal["auto", "never"] = "auto"

    def __post_init__(self) -> None:
        if min(self.checkpoint_every, self.log_every, self.keep) < 1:
            raise ValueError("checkpoint_every, log_every and keep must be at least 1")
        if self.resume not in ("auto", "never"):
            raise ValueError(f"resume={self.resume!r} is unknown: choose auto or never")
        if self.train.added_only and not self.init:
            raise ValueError("train.added_only=true is of a flow that goes on: give init=, or leave it out")
        if self.model.graph and self.train.energy_weight:
            raise ValueError("an ECNF learns by flow matching, which knows no log q: set train.energy_weight=0")


def train(job: TrainJob) -> Path:
    """Run or continue the training of `job.out`; returns the folder of the finished checkpoint.

    Ctrl-C stops it between two steps; the same command goes on from the last checkpoint.
    """
    with holding(results_folder(job.out)) as out:
        return _train_into(out, job)


def _train_into(out: Path, job: TrainJob) -> Path:
    if job.resume == "never" and (out / "train.json").exists():
        raise ValueError(f"{out} holds a run, and resume=never: give another out=, or resume=auto to go on with it")
    if (out / "train.json").exists() and "model.vocabulary" not in read_json(out / "train.json"):
        job = replace(job, model=replace(job.model, vocabulary=1))  # begun before there was another
    job, start = _started(job)
    # Runs that were begun without these keys go on: they say nothing of other flows.
    unused = () if job.model.coordinates == "binned" else tuple(f"model.{name}" for name in BIN_SETTINGS)
    unused += ("model.vocabulary",) if job.model.vocabulary == 1 else ()
    unused += () if job.train.added_only else ("train.added_only",)
    settings = {**deciding(job, (*INCIDENTAL, *unused)), **({"init_sha256": start.sha256} if start else {})}
    folder = job.data.path if is_url(job.data.path) else str(data_folder(job.data.path))
    finished = out / "checkpoint"
    geometry = _geometry(job, out, start, folder)
    if geometry:
        settings["geometry"] = geometry
    if (out / "train.json").exists():  # what can be said without a cluster is said at once
        found = read_json(out / "train.json").get("data_fingerprint")
        check_or_record_settings(out, "train", {**settings, "data_fingerprint": found})
        set_damaged_aside(out)
        if latest_step(out) >= job.train.steps:
            say(f"already trained: {finished}")
            return finished
    listing = list_folder(job.data, folder)  # a folder without data is told before a cluster is started
    with cluster(job.cluster, dashboard=True) as resources:
        data = inspect_data(job.data, folder, geometry=geometry, listing=listing)
        if job.train.energy_weight:
            data = replace(data, structures=ray.put({sequence: listing.pdbs[sequence] for sequence in data.sequences}))
        check_or_record_settings(out, "train", {**settings, "data_fingerprint": data.fingerprint})
        write_json(out / "data.json", data.summary())
        say(
            f"{'' if data.exact else 'about '}{data.n_frames} frames of {len(data.peptides)} peptides in "
            f"{len(data.shards)} shards, σ = {data.scale_nm} nm, {data.temperature_k:g} K"
            + (f", {len(data.problems)} frames left out (named in {out / 'data.json'})" if data.problems else "")
        )
        parameters = sum(p.numel() for p in Flow(job.model).parameters())
        facts = {"parameters": parameters, "scale_nm": data.scale_nm, "data.path": folder}
        with Tracker.open("train", out, {**settings, **facts}) as tracker:
            tracker.tag({"data_fingerprint": data.fingerprint})
            if start:
                say(f"starting from {job.init}")
            say(f"training {parameters / 1e6:.2f} M parameters for {job.train.steps} steps of {job.train.batch} frames")
            validator = Validator(out, folder, job.validation, data.temperature_k, tracker)
            trainer = _trainer(job, data, out, start, tracker, resources, validated=bool(validator.peptides))
            (out / FATAL).unlink(missing_ok=True)
            try:
                result = watched(trainer.fit, tracker, job.train.steps, validator.poll)
            except WorkerGroupError as error:
                rank, cause = next(iter(error.worker_failures.items()))
                raise RuntimeError(f"worker {rank} failed more than workers.max_failures times: {cause}") from error
            except RayActorError as error:
                if "CheckpointManagerInitializationError" not in str(error):
                    raise
                path = out / "ray_train" / "checkpoint_manager_snapshot.json"  # Ray Train's own
                raise DamagedFile(
                    f"{path} is damaged: take it from a copy, or delete {path.parent} to train from the start"
                ) from error
            if (out / FATAL).exists():
                raise RuntimeError((out / FATAL).read_text())
            export(result.checkpoint, out)
            validator.finish()
            tracker.artifact(finished)
    say(f"trained: {finished}")
    return finished


def _started(job: TrainJob) -> tuple[TrainJob, Start | None]:
    """The job with the size and scale of the flow that it starts from, and that flow.

    Raises: ValueError for one of a single system, or with another scale than is asked for.
    """
    if not job.init:
        return job, None
    checkpoint = models.locate(job.init, results_home())
    flow = models.checkpoint.outline(checkpoint)
    if flow.atom_order == "file" or flow.config.system:
        raise ValueError(f"init={job.init} knows one system: start from a transferable flow")
    if job.data.scale_nm not in (None, flow.scale_nm):
        raise ValueError(
            f"init={job.init} was trained with data.scale_nm={flow.scale_nm}, not {job.data.scale_nm}: leave it out"
        )
    if job.train.added_only and flow.config.vocabulary >= job.model.vocabulary:
        raise ValueError(
            f"train.added_only=true trains what init={job.init} does not know, and it knows vocabulary "
            f"{flow.config.vocabulary}: leave it out, or give a flow of the first"
        )
    data = replace(job.data, scale_nm=flow.scale_nm)
    model = flow.config
    if job.model.coordinates == model.coordinates:  # its embeddings have the room for more
        model = replace(model, vocabulary=max(model.vocabulary, job.model.vocabulary))
    return replace(job, model=model, data=data), Start.of(checkpoint)


def _geometry(job: TrainJob, out: Path, start: Start | None, folder: str) -> str | None:
    """Version of the usual bonds and angles of a flow of internal coordinates.

    That of the flow it starts from or of a begun run, or the newest; of a single molecule that of its file.
    """
    if job.model.coordinates != "internal":
        return None
    if start:
        own = models.checkpoint.outline(start.checkpoint).geometry
        return own and (widened(own) if job.model.vocabulary > 1 else own)
    if job.model.system:
        return _own_geometry(job.model.system, folder)
    if not (out / "train.json").exists():
        return geometry_version(job.model.vocabulary)
    return str(read_json(out / "train.json").get("geometry", geometry_version(job.model.vocabulary)))


def _own_geometry(name: str, folder: str) -> str:
    """Fingerprint of the z-matrix of a molecule. Raises: ValueError where the data folder's file of it has none."""
    pdbs = read_pdbs(folder)
    molecule = Peptide.from_pdb(pdbs[name]) if name in pdbs else None
    if not isinstance(molecule, Molecule):
        have = ", ".join(sorted(pdbs)[:5])
        raise ValueError(
            f"model.system={name} of internal coordinates is a molecule with a z-matrix of its own, and {folder} has "
            f"{'no such file' if molecule is None else 'none in its file'} ({have}): make it with jobs/fit.py, or "
            "give model=internal, without system="
        )
    return molecule.geometry


def _trainer(
    job: TrainJob,
    data: Catalogue,
    out: Path,
    start: Start | None,
    tracker: Tracker,
    resources: Cluster,
    *,
    validated: bool,
) -> TorchTrainer:
    use_gpu = bool(resources.gpus) if job.workers.use_gpu is None else job.workers.use_gpu
    kept = math.ceil(job.validation.num_gpus) if validated else 0  # the validation computes on a GPU of its own
    workers = job.workers.workers or (max(1, resources.gpus - kept) if use_gpu else 1)
    if job.train.batch < workers:
        raise ValueError(f"train.batch={job.train.batch} leaves some of the {workers} workers without a frame")
    task = WorkerTask(
        model=job.model,
        start=start,
        train=job.train,
        plan=batch_plan(job),
        checkpoint_every=job.checkpoint_every,
        log_every=job.log_every,
        threads=job.workers.threads,
    )
    # A worker holds one CPU for Ray, or less where there are few, and computes on its part of the machine's cores:
    # the rest is left to the data tasks, which sleep most of the time.
    cpus = 1.0 if resources.cpus > workers else 0.5 * resources.cpus / workers
    fewest = job.workers.min_workers
    return TorchTrainer(
        train_worker,
        train_loop_config={"task": task, "data": ray.put(data)},
        torch_config=ProcessGroupConfig(),
        scaling_config=ScalingConfig(
            num_workers=(fewest, workers) if 0 < fewest < workers else workers,  # type: ignore[arg-type]
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus},
        ),
        run_config=RunConfig(
            name="ray_train",
            storage_path=str(out),
            failure_config=FailureConfig(
                max_failures=job.workers.max_failures,
                max_preemption_failures=job.workers.max_preemptions,  # type: ignore[call-arg]  # V2 has it
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=job.keep),
            callbacks=[Recorder(tracker, out, not validated)],  # type: ignore[list-item]
        ),
    )


def batch_plan(job: TrainJob) -> BatchPlan:
    """The settings that decide which frames a step sees."""
    return BatchPlan(
        batch=job.train.batch,
        seed=job.train.seed,
        shards_per_window=job.data.shards_per_window,
        bucket_steps=job.data.bucket_steps,
        constant=job.data.constant,
        accumulate=job.train.accumulate,
        energies=job.train.energy_weight > 0,
        center=job.model.center,
    )


def watched(fit: Callable[[], Any], tracker: Tracker, steps: int, poll: Callable[[], None]) -> Any:
    """Run `fit` and return its result; meanwhile poll, and show the metrics that a worker anywhere wrote to MLflow."""
    fitting = run_in_thread(fit)
    first = tracker.latest().get("step", 0.0)
    with progress("train", steps, first, starts_late=True) as update:
        while not wait([fitting], timeout=POLL_S).done:
            poll()
            with warn_on_error("reading the progress"):
                latest = tracker.latest()  # of which some may still be on their way to the database
                if latest.get("step", 0.0) > first and {"loss", "samples_per_s"} <= latest.keys():
                    speed = f"{latest['samples_per_s']:.0f} frames/s"
                    update(latest["step"], f"step {latest['step']:.0f}/{steps}  loss {latest['loss']:.3f}  {speed}")
    return fitting.result()
