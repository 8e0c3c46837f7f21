"""SMC's path in MLflow: gathered, and sent every few seconds in one call, since each call costs about 10 ms."""

import time
from typing import Any

from mlflow.entities import Metric

from boltzray.samplers import SMCStep

from ..runtime.tracking import Tracker, warn_on_error

SEND_EVERY_S = 5.0
MOST = 900  # metrics in one call; the store refuses 1,000


class StepLog:
    """λ, ESS, acceptance, step size, log Z, ancestors, energies and throughput of each step."""

    def __init__(self, tracker: Tracker, prefix: str) -> None:
        self.tracker, self.prefix = tracker, prefix
        self._metrics: list[Metric] = []
        self._sent = self._last = time.monotonic()
        self._evaluations: int | None = None

    def add(self, record: SMCStep, particles: int) -> None:
        """Keep one step; `particles` were moved in it."""
        now = time.monotonic()
        seconds, self._last = max(now - self._last, 1e-9), now
        values = record._asdict() | {"seconds_a_step": seconds, "particles_per_s": particles / seconds}
        if self._evaluations is not None:
            values["energies_per_s"] = (record.n_evaluations - self._evaluations) / seconds
        self._evaluations = record.n_evaluations
        stamp = int(time.time() * 1000)
        self._metrics += [
            Metric(f"{self.prefix}_{name}", float(value), stamp, record.step)
            for name, value in values.items()
            if name != "step" and abs(float(value)) < float("inf")
        ]
        if now - self._sent > SEND_EVERY_S or len(self._metrics) > MOST - 20:
            self.send()

    def send(self) -> None:
        """Write what has been gathered."""
        with warn_on_error("logging to MLflow"):
            self.tracker.client.log_batch(self.tracker.run_id, metrics=self._metrics)
        self._metrics, self._sent = [], time.monotonic()

    def __enter__(self) -> "StepLog":
        return self

    def __exit__(self, *_: Any) -> None:
        self.send()
