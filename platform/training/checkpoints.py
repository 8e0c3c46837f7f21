"""What a run goes on from: written by the first worker, kept by Ray Train, shown to users as a flow."""

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

from ..data.catalogue import Catalogue
from ..data.windows import StreamState
from .train_step import Learner

FLOW, STATE = "flow", "state.pt"
PACKAGES = ("torch", "ray", "numpy")


@dataclass(frozen=True)
class Saved:
    """Where the data stands: the start of the pool that the last step took from, and what was found bad so far."""

    start: StreamState = field(default_factory=StreamState)
    problems: list[str] = field(default_factory=list)


def report_checkpoint(learner: Learner, saved: Saved, data: Catalogue, metrics: Mapping[str, Any]) -> None:
    """Write all that a run needs to go on, and leave it to Ray Train, which copies it while training goes on.

    A checkpoint counts once it is there as a whole.
    """
    folder = Path(tempfile.mkdtemp(prefix="boltzray-"))
    try:
        models.save(learner.averaged(), folder / FLOW, provenance(learner, data))
        state = {**learner.state(), "start": tuple(saved.start), "problems": saved.problems}
        torch.save(state, folder / STATE)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    ray.train.report(
        dict(metrics),
        checkpoint=Checkpoint.from_directory(str(folder)),
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        delete_local_checkpoint_after_upload=True,
    )


def restore(learner: Learner) -> Saved:
    """Bring the learner to where Ray Train's last checkpoint was written, if there is one."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return Saved()
    with checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / STATE, map_location=learner.device, weights_only=True)
    learner.load_state(state)
    return Saved(StreamState(*state["start"]), list(state["problems"]))


def provenance(learner: Learner, data: Catalogue) -> dict[str, Any]:
    """What the flow was made with, kept beside its weights."""
    return {
        "step": learner.steps_done,
        "data_fingerprint": data.fingerprint,
        "temperature_k": data.temperature_k,
        "sequences": data.sequences,
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
        found = models.checkpoint.describe(Path(folder) / FLOW)["provenance"]
    models.save(flow, out / "checkpoint", found)
    if score is not None:
        keep_best(out, flow, found, score)


def latest_step(out: Path) -> int:
    """Steps behind out/checkpoint, 0 if there is none."""
    try:
        return int(models.checkpoint.describe(out / "checkpoint")["provenance"]["step"])
    except (FileNotFoundError, json.JSONDecodeError):
        return 0


def keep_best(out: Path, flow: Flow, provenance: Mapping[str, Any], score: float) -> bool:
    """Put a flow at out/best if its `score`, which is better when lower, is the lowest so far."""
    best = out / "best"
    if best.exists() and models.checkpoint.describe(best)["provenance"]["score"] <= score:
        return False
    models.save(flow, best, {**provenance, "score": score})
    return True
