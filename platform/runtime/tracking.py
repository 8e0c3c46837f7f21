"""MLflow runs: one for each job, found again when the job is resumed."""

import hashlib
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock

from . import beside, mlflow_store, stopping
from .config import display_path, results_home
from .progress import say
from .telemetry import system_metrics

if TYPE_CHECKING:  # MLflow takes seconds to import
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

PACKAGES = ("boltzray", "torch", "ray", "openmm", "mdtraj", "mlflow", "numpy")
RUN = "mlflow_run"  # in a results folder: the id of its run, and its store

T = TypeVar("T")


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


def _experiment(uri: str, name: str) -> "tuple[MlflowClient, str]":
    """Return a client, and the id of an experiment, which is made when there is none.

    The first job of a folder makes the database: others that start at the same time wait for it.
    """
    from mlflow.tracking import MlflowClient

    file = mlflow_store.sqlite_file(uri)
    with FileLock(f"{file}.lock") if file else nullcontext():
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(name)
        if found:
            return client, found.experiment_id
        return client, client.create_experiment(
            name,
            artifact_location=(results_home() / "mlartifacts").as_uri() if file else None,
            tags={"mlflow.experimentKind": "custom_model_development"},  # the UI then shows curves, not chats
        )


class Tracker:
    """A handle on one MLflow run; it pickles, so that any process can write to the run.

    Nothing that it writes raises: what the store does not take is kept in `out`, the results folder, until it does.
    Where no store could be opened at all, `run_id` is empty, and nothing is tracked.
    """

    def __init__(self, run_id: str, uri: str, out: Path) -> None:
        self.run_id, self.uri, self.out = run_id, uri, out

    def __getstate__(self) -> dict[str, Any]:
        """Leave out system metrics, which are logged by the process that entered the run."""
        return {"run_id": self.run_id, "uri": self.uri, "out": self.out}

    @classmethod
    def open(
        cls, experiment: str, out: Path, parameters: Mapping[str, Any], parent: "Tracker | None" = None, name: str = ""
    ) -> "Tracker":
        """Open the run of results folder `out`: the one begun there with the same parameters, or a new one.

        In the store of `parent`, or that of `MLFLOW_TRACKING_URI`; if that does not work, which is said in one line, in
        a database of the results' home, or of `out`. `name`: of the run; by default that of the folder.
        """
        if _off.get():
            return cls("", "", out)
        facts = {"run_name": name or out.name, **provenance()}
        if process := beside.running():
            tracker = TrackerBeside(process, next(_keys), out)
            above = parent.key if isinstance(parent, TrackerBeside) else parent
            with warn_on_error("logging to MLflow"):
                process.send("open_run", tracker.key, experiment, out, dict(parameters), above, facts)
            return tracker
        return cls.open_here(experiment, out, parameters, parent, facts)

    @classmethod
    def open_here(
        cls, experiment: str, out: Path, parameters: Mapping[str, Any], parent: "Tracker | None", facts: dict[str, str]
    ) -> "Tracker":
        """Open a run from this process; `facts`: its name as `run_name`, and tags."""
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        wanted, begun = parent.uri if parent else mlflow_store.tracking_uri(), _begun(out)
        others = (mlflow_store.sqlite_uri(path) for path in (mlflow_store.home_database(), out / "mlflow.db"))
        reasons: list[str] = []
        for uri in dict.fromkeys([wanted, *others]):
            known = mlflow_store.known_problem(uri)
            if (reason := mlflow_store.problem(uri)) is None:
                try:
                    tracker = cls._open(uri, experiment, out, parameters, parent, facts)
                except Exception as error:
                    reason = mlflow_store.in_short(error)
                    mlflow_store.set_problem(uri, reason)
                else:
                    if reasons:
                        say(f"note: {'; '.join(reasons)}: runs are tracked in {mlflow_store.shown(uri)} instead")
                    return tracker
            if not known:
                reasons.append(f"MLflow cannot use {mlflow_store.shown(uri)} ({reason})")
            if begun and begun.uri == uri:
                say(f"note: {'; '.join(reasons)}: what this run logs waits in {out / mlflow_store.PENDING}")
                return begun
        if reasons:
            say(f"note: {'; '.join(reasons)}: runs are not tracked")
        return cls("", wanted, out)

    @classmethod
    def _open(
        cls,
        uri: str,
        experiment: str,
        out: Path,
        parameters: Mapping[str, Any],
        parent: "Tracker | None",
        facts: dict[str, str],
    ) -> "Tracker":
        from mlflow.entities import Param

        client, experiment_id = _experiment(uri, experiment)
        if parent and parent.uri == uri:  # the UI nests runs of one experiment only
            experiment_id = client.get_run(parent.run_id).info.experiment_id
        key = hashlib.sha256(str(out.absolute()).encode()).hexdigest()[:16]
        begun = _begun(out)
        if begun:
            runs = client.search_runs([experiment_id], f"tags.boltzray_out = '{key}'", max_results=1)
            same = {k: str(v)[:500] for k, v in parameters.items()}
            if runs and runs[0].info.run_id == begun.run_id and runs[0].data.params == same:
                client.update_run(runs[0].info.run_id, status="RUNNING")
                return cls(runs[0].info.run_id, uri, out)
        tags = {"boltzray_out": key, "out": display_path(out), **facts}
        if parent and parent.uri == uri:
            tags["mlflow.parentRunId"] = parent.run_id
        run = client.create_run(experiment_id, run_name=tags.pop("run_name"), tags=tags)
        items = [Param(k, str(v)[:500]) for k, v in parameters.items()]
        client.log_batch(run.info.run_id, params=items)
        (out / RUN).write_text(f"{run.info.run_id}\n{mlflow_store.without_password(uri)}\n", encoding="utf-8")
        return cls(run.info.run_id, uri, out)

    @classmethod
    def find(cls, out: Path) -> "Tracker | None":
        """Find the run that made results folder `out`, if there is one."""
        process = beside.running()
        if process is None:
            return cls.find_here(out)
        tracker = TrackerBeside(process, next(_keys), out)
        with warn_on_error("looking for a run in MLflow"):
            return tracker if process.call("find_run", tracker.key, out) else None
        return None

    @classmethod
    def find_here(cls, out: Path) -> "Tracker | None":
        """Find it from this process."""
        tracker = _begun(out)
        if tracker is None:
            return None
        from mlflow.exceptions import MlflowException

        try:
            mlflow_store.read(tracker.uri, lambda client: client.get_run(tracker.run_id), None)
        except MlflowException:
            return None
        return tracker

    def _read(self, ask: "Callable[[MlflowClient], T]", otherwise: T) -> T:
        return mlflow_store.read(self.uri, ask, otherwise) if self.run_id else otherwise

    def _write(self, **record: Any) -> None:
        if self.run_id:
            mlflow_store.write(self.uri, self.out, {"run": self.run_id, **record})

    def facts(self) -> dict[str, str]:
        """Return the run's tags: commit, versions and command that it was begun with, and what was tagged since."""
        tags: dict[str, str] = self._read(lambda client: client.get_run(self.run_id).data.tags, {})
        return {k: v for k, v in tags.items() if not k.startswith("mlflow.") and k != "boltzray_out"}

    def history(self, metric: str) -> list[tuple[int, float]]:
        """Return (step, value) of a metric, in the order of steps."""
        none: list[Metric] = []
        points = self._read(lambda client: client.get_metric_history(self.run_id, metric), none)
        return sorted((m.step, m.value) for m in points)

    def latest(self) -> dict[str, float]:
        """Return the last value of each metric."""
        none: dict[str, float] = {}
        return dict(self._read(lambda client: client.get_run(self.run_id).data.metrics, none))

    def log(self, metrics: Mapping[str, Any], step: int = 0) -> None:
        """Log all finite numbers among `metrics`."""
        self.log_steps([(step, metrics, time.time())])

    def log_steps(self, rows: Sequence[tuple[int, Mapping[str, Any], float]]) -> None:
        """Log all finite numbers of many steps in one call: (step, metrics, seconds since the epoch)."""
        points = [
            (name, float(value), int(when * 1000), step)
            for step, metrics, when in rows
            for name, value in metrics.items()
            if isinstance(value, int | float) and abs(float(value)) < float("inf")
        ]
        if points:
            self._write(metrics=points)

    def tag(self, tags: Mapping[str, Any]) -> None:
        """Set tags of the run, cut to MLflow's limit of length."""
        self._write(tags={k: str(v)[:5000] for k, v in tags.items()})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, or a folder with all its files, to the run's artifacts, below `folder` if given."""
        self._write(artifact=[str(path), folder])

    def end(self, status: str) -> None:
        """End the run: FINISHED, KILLED or FAILED."""
        self._write(status=[status, int(time.time() * 1000)])

    def __enter__(self) -> "Tracker":
        self._watching = ExitStack()
        self._watch()
        _entered.append(self)
        return self

    def _watch(self) -> None:
        if self.run_id:
            with warn_on_error("watching the system"):
                self._watching.enter_context(system_metrics(self.run_id, self.uri))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the run as its work ended: finished, killed (by Ctrl-C, or as a trial that Tune stops), or failed."""
        _entered.remove(self)
        with warn_on_error("watching the system"):
            self._watching.close()
        status = "FINISHED" if kind is None else "KILLED" if kind in (KeyboardInterrupt, SystemExit) else "FAILED"
        self._finish(status)

    def _finish(self, status: str) -> None:
        self.end(status)
        if waiting := mlflow_store.pending(self.out):
            say(
                f"note: {waiting} records wait for MLflow at {mlflow_store.shown(self.uri)} in "
                f"{self.out / mlflow_store.PENDING}: the same command sends them"
            )


def _begun(out: Path) -> Tracker | None:
    """Return the run that `out` records, if it lies in the store that is set, or in an SQLite file that is there."""
    path, uri = out / RUN, mlflow_store.tracking_uri()
    if not path.exists():
        return None
    run_id, *store = path.read_text(encoding="utf-8").split("\n")
    if store and store[0] != mlflow_store.without_password(uri):  # folders of earlier versions do not name it
        uri = store[0]
        file = mlflow_store.sqlite_file(uri)
        if not file or not file.exists():
            return None
    return Tracker(run_id.strip(), uri, out)


class TrackerBeside(Tracker):
    """A run that the process beside this one writes to. Pickled, it is one that any process writes to by itself."""

    def __init__(self, process: beside.Beside, key: int, out: Path) -> None:
        self.process, self.key, self.out = process, key, out

    def _ask(self, what: str, otherwise: Any, *arguments: Any) -> Any:
        try:
            return self.process.call("ask", self.key, what, *arguments)
        except (OSError, EOFError, RuntimeError):  # the process is gone, or has no such run, which writing says
            return otherwise

    @property
    def run_id(self) -> str:  # type: ignore[override]
        """The run's id, empty where there is no store."""
        return str(self._ask("run_id", ""))

    @property
    def uri(self) -> str:  # type: ignore[override]
        """The store's address."""
        return str(self._ask("uri", ""))

    def __reduce__(self) -> tuple[Any, ...]:
        return Tracker, (self.run_id, self.uri, self.out)

    def facts(self) -> dict[str, str]:
        """See `Tracker`."""
        return dict(self._ask("facts", {}))

    def history(self, metric: str) -> list[tuple[int, float]]:
        """See `Tracker`."""
        return list(self._ask("history", [], metric))

    def latest(self) -> dict[str, float]:
        """See `Tracker`."""
        return dict(self._ask("latest", {}))

    def _write(self, **record: Any) -> None:
        with warn_on_error("logging to MLflow"):
            self.process.send("write", self.key, record)

    def _watch(self) -> None:
        if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"):
            super()._watch()

    def _finish(self, status: str) -> None:
        with warn_on_error("logging to MLflow"):
            self.process.send("finish", self.key, status)


def send_pending(out: Path) -> None:
    """Give MLflow what earlier jobs of the results folder `out` could not."""
    if not mlflow_store.pending(out):
        return
    if process := beside.running():
        with warn_on_error("sending what was kept to MLflow"):
            process.call("send_kept", out)
    else:
        send_kept(out)


def send_kept(out: Path) -> None:
    """Give it from this process."""
    tracker = _begun(out) if mlflow_store.pending(out) else None
    if tracker and (reason := mlflow_store.problem(tracker.uri)):
        say(f"note: records of {out} still wait for MLflow at {mlflow_store.shown(tracker.uri)} ({reason})")
    elif tracker:
        with warn_on_error("sending what was kept to MLflow"):
            mlflow_store.send_pending(tracker.uri, out, leftovers=True)


def _end_all() -> None:
    for tracker in list(_entered):
        tracker.end("KILLED")


@contextmanager
def untracked() -> Iterator[None]:
    """Open no runs during a `with`: of calls from Python, whose results nobody has named a folder for."""
    before = _off.set(True)
    try:
        yield
    finally:
        _off.reset(before)


_off: ContextVar[bool] = ContextVar("untracked", default=False)
_keys = count()
_entered: list[Tracker] = []  # runs that this process has begun and not ended
stopping.last_words.append(_end_all)
