"""The calls that the process beside a job's answers: see `beside` and `tracking.TrackerBeside`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow.tracking  # noqa: F401  seconds, for which nobody waits here

from . import mlflow_store
from .tracking import Tracker, send_kept

__all__ = ["ask", "find_run", "finish", "open_run", "send_kept", "write"]

_runs: dict[int, Tracker] = {}


def open_run(
    key: int,
    experiment: str,
    out: Path,
    parameters: Mapping[str, Any],
    parent: int | Tracker | None,
    facts: dict[str, str],
) -> None:
    """Open a run, to be known by `key`."""
    above = _runs[parent] if isinstance(parent, int) else parent
    _runs[key] = Tracker.open_here(experiment, out, parameters, above, facts)


def find_run(key: int, out: Path) -> bool:
    """Return True if a results folder has a run, which is then known by `key`."""
    if found := Tracker.find_here(out):
        _runs[key] = found
    return found is not None


def ask(key: int, what: str, *arguments: Any) -> Any:
    """Return an attribute of a run, or what a method of it returns."""
    value = getattr(_runs[key], what)
    return value(*arguments) if callable(value) else value


def write(key: int, record: Mapping[str, Any]) -> None:
    """Log a record."""
    run = _runs[key]
    if run.run_id:
        mlflow_store.write(run.uri, run.out, {"run": run.run_id, **record})


def finish(key: int, status: str) -> None:
    """End a run; say what waits for its store."""
    _runs[key]._finish(status)
