"""Callback in Ray Train's controller. It imports no more than that: the controller starts in seconds."""

import time
from pathlib import Path
from typing import Any

from ray.train import Checkpoint, UserCallback

from ..data.catalogue import BAD_DATA
from ..runtime.telemetry import count
from ..runtime.tracking import Tracker, warn_on_error
from .checkpoints import export
from .worker import FATAL, PROBLEMS


class Recorder(UserCallback):
    """Callback in Ray Train's controller: metrics to MLflow, each checkpoint to where users look for it.

    Without a validation, the best flow is the one of lowest loss.
    """

    def __init__(self, tracker: Tracker, out: Path, score_by_loss: bool) -> None:
        self.tracker, self.out, self.score_by_loss = tracker, out, score_by_loss

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        if problems := metrics[0].get(PROBLEMS):
            with (self.out / BAD_DATA).open("a") as file:
                file.writelines(f"{line}\n" for line in problems)
        if FATAL in metrics[0]:
            (self.out / FATAL).write_text(metrics[0][FATAL])
            return
        with warn_on_error("recording metrics"):
            self.tracker.log(metrics[0], step=int(metrics[0]["step"]))
        if checkpoint is not None:
            export(checkpoint, self.out, metrics[0]["loss"] if self.score_by_loss else None)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        rank, error = next(iter(worker_exceptions.items()))
        count("boltzray_failures", len(worker_exceptions), "train worker")
        with warn_on_error("recording a failure"):
            self.tracker.tag({f"failure_{int(time.time())}": f"worker {rank}: {error!r}"})
