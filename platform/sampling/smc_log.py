"""Log SMC's path to MLflow, in a thread of its own: the store takes 10 ms for the shortest call."""

import threading
import time
from typing import Any

from boltzray.samplers import SMCStep

from ..runtime.tracking import Tracker

SEND_EVERY_S = 5.0


class StepLog:
    """λ, ESS, acceptance, step size, log Z, ancestors, energies and throughput of each step, as metrics of MLflow.

    After the `with` all steps are in the store, or kept for it.
    """

    def __init__(self, tracker: Tracker, prefix: str) -> None:
        self.tracker, self.prefix = tracker, prefix
        self._last = time.monotonic()
        self._evaluations: int | None = None
        self._rows: list[tuple[int, dict[str, float], float]] = []
        self._ended = threading.Event()
        self._sender = threading.Thread(target=self._send_now_and_then, daemon=True)

    def add(self, record: SMCStep, particles: int) -> None:
        """Log one step, in which `particles` were moved; returns at once."""
        now = time.monotonic()
        seconds, self._last = max(now - self._last, 1e-9), now
        values = record._asdict() | {"seconds_a_step": seconds, "particles_per_s": particles / seconds}
        if self._evaluations is not None:
            values["energies_per_s"] = (record.n_evaluations - self._evaluations) / seconds
        self._evaluations = record.n_evaluations
        step = values.pop("step")
        self._rows.append((step, {f"{self.prefix}_{k}": float(v) for k, v in values.items()}, time.time()))

    def _send_now_and_then(self) -> None:
        while not self._ended.wait(SEND_EVERY_S):
            self._send()

    def _send(self) -> None:
        n = len(self._rows)  # `add` only appends
        rows, self._rows[:n] = self._rows[:n], []
        self.tracker.log_steps(rows)

    def __enter__(self) -> "StepLog":
        self._sender.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._sender.join()
        self._send()
