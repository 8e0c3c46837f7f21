"""Training checkpoints: written by the first worker, kept by Ray Train, exported as a flow for users."""

import json
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode

from boltzray import models
from boltzray.models.flow import Flow
from boltzray.molecules.storage import check_seal, seal, set_aside
from boltzray.molecules.tars import Problem

from ..data.catalogue import Catalogue
from ..data.windows import StreamState
from ..runtime.progress import say
from .train_step import Learner

FLOW, STATE = "flow", "state.pt"


@dataclass(frozen=True, kw_only=True)
class Start:
    """A flow that training starts from: where it is, the SHA-256 of its weights, and what it has been trained on."""

    checkpoint: str
    sha256: str
    sequences: tuple[str, ...] = ()

    @classmethod
    def of(cls, checkpoint: Path) -> "Start":
        """Read what identifies a flow. Raises: as `models.load`."""
        known = models.checkpoint.describe(checkpoint).provenance.get("sequences", ()) if checkpoint.is_dir() else ()
        return cls(checkpoint=str(checkpoint), sha256=models.checkpoint.fingerprint(checkpoint), sequences=tuple(known))


@dataclass(frozen=True)
class DataState:
    """State of the data: start of the bucket group that the last step took from, and the problems found so far."""

    start: StreamState = field(default_factory=StreamState)
    problems: list[Problem] = field(default_factory=list)


def report_checkpoint(
    learner: Learner, data_state: DataState, data: Catalogue, start: Start | None, metrics: Mapping[str, Any]
) -> None:
    """Write all that a run needs to go on, and leave it to Ray Train, which copies it while training goes on.

    A checkpoint counts once it is there as a whole.
    """
    folder = Path(tempfile.mkdtemp(prefix="boltzray-"))
    try:
        models.save(learner.averaged(), folder / FLOW, provenance(learner, data, start))
        lines = [str(problem) for problem in data_state.problems]
        torch.save({**learner.state(), "start": tuple(data_state.start), "problems": lines}, folder / STATE)
        seal(folder / STATE)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    ray.train.report(
        dict(metrics),
        checkpoint=Checkpoint.from_directory(str(folder)),
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        delete_local_checkpoint_after_upload=True,
    )


def restore(learner: Learner) -> DataState:
    """Load Ray Train's last checkpoint into the learner, if there is one; returns where the data stands."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return DataState()
    with checkpoint.as_directory() as folder:
        check_seal(Path(folder) / STATE)
        state = torch.load(Path(folder) / STATE, map_location=learner.device, weights_only=True)
    learner.load_state(state)
    return DataState(StreamState(*state["start"]), [Problem.parse(line) for line in state["problems"]])


def provenance(learner: Learner, data: Catalogue, start: Start | None = None) -> dict[str, Any]:
    """Settings and versions that the flow was made with, kept beside its weights.

    `sequences` are those of the data, and those that the flow it started from was trained on.
    """
    return {
        "step": learner.steps_done,
        "data_fingerprint": data.fingerprint,
        "temperature_k": data.temperature_k,
        "sequences": sorted({*data.sequences, *start.sequences}) if start else data.sequences,
        **({"init_sha256": start.sha256} if start else {}),
        "train": asdict(learner.config),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "ray", "numpy")},
        },
    }


def export(checkpoint: Checkpoint, out: Path, score: float | None = None) -> None:
    """Put the flow of a training checkpoint at out/checkpoint; with a score, at out/best too if it is the best."""
    with checkpoint.as_directory() as folder:
        flow = models.load(Path(folder) / FLOW)
        found = models.checkpoint.describe(Path(folder) / FLOW).provenance
    models.save(flow, out / "checkpoint", found)
    if score is not None:
        keep_best(out, flow, found, score)


def latest_step(out: Path) -> int:
    """Steps behind out/checkpoint, 0 if there is none."""
    try:
        return int(models.checkpoint.describe(out / "checkpoint").provenance["step"])
    except (FileNotFoundError, json.JSONDecodeError):
        return 0


def set_damaged_aside(out: Path) -> None:
    """Put out/checkpoint and out/best aside if they are damaged: the checkpoint is made again from Ray Train's."""
    for found in (out / "checkpoint", out / "best"):
        if found.exists():
            try:
                models.load(found)
            except (ValueError, FileNotFoundError) as error:
                say(f"note: {error} (kept as {set_aside(found).name})")


def keep_best(out: Path, flow: Flow, provenance: Mapping[str, Any], score: float) -> bool:
    """Put a flow at out/best if its `score`, which is better when lower, is the lowest so far."""
    best = out / "best"
    if best.exists() and models.checkpoint.describe(best).provenance["score"] <= score:
        return False
    models.save(flow, best, {**provenance, "score": score})
    return True
