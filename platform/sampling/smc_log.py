"""Log SMC's path to MLflow, in a thread of its own: the store takes 10 ms for the shortest call."""

import os
import time
from typing import Any

from boltzray.samplers import SMCStep

from ..runtime.tracking import Tracker, warn_on_error

SEND_EVERY_S = 5


class StepLog:
    """λ, ESS, acceptance, step size, log Z, ancestors, energies and throughput of each step, as metrics of MLflow.

    After the `with` all steps are in the store. Steps that it refuses are lost, with a message of MLflow's.
    """

    def __init__(self, tracker: Tracker, prefix: str) -> None:
        os.environ.setdefault("MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS", str(SEND_EVERY_S))
        self.tracker, self.prefix = tracker, prefix
        self._last = time.monotonic()
        self._evaluations: int | None = None

    def add(self, record: SMCStep, particles: int) -> None:
        """Log one step, in which `particles` were moved; returns at once."""
        now = time.monotonic()
        seconds, self._last = max(now - self._last, 1e-9), now
        values = record._asdict() | {"seconds_a_step": seconds, "particles_per_s": particles / seconds}
        if self._evaluations is not None:
            values["energies_per_s"] = (record.n_evaluations - self._evaluations) / seconds
        self._evaluations = record.n_evaluations
        step = values.pop("step")
        with warn_on_error("logging to MLflow"):
            self.tracker.log({f"{self.prefix}_{k}": float(v) for k, v in values.items()}, step, synchronous=False)

    def __enter__(self) -> "StepLog":
        return self

    def __exit__(self, *_: Any) -> None:
        with warn_on_error("logging to MLflow"):
            self.tracker.flush()
