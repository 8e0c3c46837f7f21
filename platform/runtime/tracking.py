"""MLflow runs: one for each job, found again when the job is resumed."""

import hashlib
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlflow
from filelock import FileLock
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from .config import display_path, results_home
from .telemetry import system_metrics

PACKAGES = ("boltzray", "torch", "ray", "openmm", "mdtraj", "mlflow", "numpy")


def tracking_uri() -> str:
    """Return `MLFLOW_TRACKING_URI`, or an SQLite file in the results' home: always absolute."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{results_home() / 'mlflow.db'}"


@contextmanager
def warn_on_error(what: str) -> Iterator[None]:
    """Print an error instead of raising it: a store that is down for a while must not end a run of days."""
    try:
        yield
    except Exception as error:
        print(f"warning: {what} failed: {error!r}", file=sys.stderr, flush=True)


def provenance() -> dict[str, str]:
    """Collect commit, versions and command, to run the same thing again."""
    facts = {"command": " ".join([Path(sys.executable).name, *sys.argv]), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    root = Path(__file__).parents[2]
    try:
        git = ["git", "-C", str(root), "-c", f"safe.directory={root}"]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
        facts["commit"] = commit + ("+changes" if dirty.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        facts["commit"] = "unknown"
    return facts


def _experiment(uri: str, name: str) -> tuple[MlflowClient, str]:
    """Return a client, and the id of an experiment, which is made when there is none.

    The first job of a folder makes the database: others that start at the same time wait for it.
    """
    local = uri.startswith("sqlite:///")
    with FileLock(f"{uri.removeprefix('sqlite:///')}.lock") if local else nullcontext():
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(name)
        if found:
            return client, found.experiment_id
        return client, client.create_experiment(
            name,
            artifact_location=str(results_home() / "mlartifacts") if local else None,
            tags={"mlflow.experimentKind": "custom_model_development"},  # the UI then shows curves, not chats
        )


class Tracker:
    """A handle on one MLflow run; it pickles, so that any process can write to the run."""

    def __init__(self, run_id: str, uri: str) -> None:
        self.run_id, self.uri = run_id, uri

    def __getstate__(self) -> dict[str, str]:
        return {"run_id": self.run_id, "uri": self.uri}  # system metrics are logged by the process that entered the run

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    @classmethod
    def open(
        cls, experiment: str, out: Path, parameters: Mapping[str, Any], parent: "Tracker | None" = None
    ) -> "Tracker":
        """Open the run of results folder `out`: the one begun there with the same parameters, or a new one."""
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        uri = tracking_uri()
        mlflow.set_tracking_uri(uri)
        client, experiment_id = _experiment(uri, experiment)
        key = hashlib.sha256(str(out.absolute()).encode()).hexdigest()[:16]
        path = out / "mlflow_run"
        if path.exists():
            runs = client.search_runs([experiment_id], f"tags.boltzray_out = '{key}'", max_results=1)
            same = {k: str(v)[:500] for k, v in parameters.items()}
            if runs and runs[0].info.run_id == path.read_text().strip() and runs[0].data.params == same:
                client.update_run(runs[0].info.run_id, status="RUNNING")
                return cls(runs[0].info.run_id, uri)
        tags = {"boltzray_out": key, "out": display_path(out), **provenance()}
        if parent:
            tags["mlflow.parentRunId"] = parent.run_id
        run = client.create_run(experiment_id, run_name=out.name, tags=tags)
        path.write_text(run.info.run_id)
        tracker = cls(run.info.run_id, uri)
        items = [Param(k, str(v)[:500]) for k, v in parameters.items()]
        client.log_batch(tracker.run_id, params=items)
        return tracker

    @classmethod
    def find(cls, out: Path) -> "Tracker | None":
        """Find the run that made results folder `out`, if there is one."""
        path = out / "mlflow_run"
        if not path.exists():
            return None
        tracker = cls(path.read_text().strip(), tracking_uri())
        try:
            tracker.client.get_run(tracker.run_id)
        except MlflowException:
            return None
        return tracker

    def facts(self) -> dict[str, str]:
        """Return the run's tags: commit, versions and command that it was begun with, and what was tagged since."""
        tags = self.client.get_run(self.run_id).data.tags
        return {k: v for k, v in tags.items() if not k.startswith("mlflow.") and k != "boltzray_out"}

    def history(self, metric: str) -> list[tuple[int, float]]:
        """Return (step, value) of a metric, in the order of steps."""
        return sorted((m.step, m.value) for m in self.client.get_metric_history(self.run_id, metric))

    def log(self, metrics: Mapping[str, Any], step: int = 0, *, synchronous: bool = True) -> None:
        """Log all finite numbers among `metrics` in one call, or give them to MLflow's queue: see `flush`."""
        now = int(time.time() * 1000)
        items = [
            Metric(name, float(value), now, step)
            for name, value in metrics.items()
            if isinstance(value, int | float) and abs(float(value)) < float("inf")
        ]
        self.client.log_batch(self.run_id, metrics=items, synchronous=synchronous)

    def flush(self) -> None:
        """Wait until MLflow's queue is empty. What the store did not take is lost; MLflow prints why."""
        mlflow.set_tracking_uri(self.uri)
        mlflow.flush_async_logging()

    def tag(self, tags: Mapping[str, Any]) -> None:
        """Set tags of the run, cut to MLflow's limit of length."""
        self.client.log_batch(self.run_id, tags=[RunTag(k, str(v)[:5000]) for k, v in tags.items()])

    def latest(self) -> dict[str, float]:
        """Return the last value of each metric."""
        return dict(self.client.get_run(self.run_id).data.metrics)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, or a folder with all its files, to the run's artifacts, below `folder` if given."""
        self.client.log_artifact(self.run_id, str(path), folder)

    def __enter__(self) -> "Tracker":
        self._watching = ExitStack()
        with warn_on_error("watching the system"):
            self._watching.enter_context(system_metrics(self.run_id, self.uri))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the run as its work ended: finished, killed (by Ctrl-C, or as a trial that Tune stops), or failed."""
        with warn_on_error("watching the system"):
            self._watching.close()
        status = "FINISHED" if kind is None else "KILLED" if kind in (KeyboardInterrupt, SystemExit) else "FAILED"
        with warn_on_error("closing the MLflow run"):
            self.client.set_terminated(self.run_id, status)
