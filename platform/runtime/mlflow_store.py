"""MLflow's stores: which one a process uses, whether it answers, and records that wait until it does."""

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from .background import run_in_thread
from .config import results_home
from .progress import say

if TYPE_CHECKING:  # MLflow takes seconds to import, SQLAlchemy half of one: only in the process that talks to a store
    from mlflow.tracking import MlflowClient

T = TypeVar("T")

ANSWER_S = 8.0  # for the first answer of a store
RETRY_S, RETRY_AT_MOST_S = 30.0, 600.0  # until a store that failed is asked again
METRICS_AT_ONCE = 1000  # MLflow's limit
PENDING = "mlflow_pending.jsonl"  # in a results folder: what its run's store did not take
ASIDE = "mlflow_refused.jsonl"
REFUSED = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "INVALID_STATE")  # asking again is vain

Record = Mapping[str, Any]


@dataclass
class Outage:
    """A store that fails: when to ask it again, and how long that was put off."""

    next_try: float
    pause_s: float


_outages: dict[str, Outage] = {}
_problems: dict[str, str | None] = {}  # what this process found at the first try of each store


# --- addresses ----------------------------------------------------------------------------------


def tracking_uri() -> str:
    """Return `MLFLOW_TRACKING_URI`, or an SQLite file in the results' home: always absolute."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return sqlite_uri(home_database())
    if folder := _folder(uri):
        return str(folder)
    database = sqlite_file(uri)
    if database and not database.is_absolute():
        return sqlite_uri(Path.cwd() / database)
    return uri


def home_database() -> Path:
    """Return the database of runs whose store is not set, or does not answer."""
    return results_home() / "mlflow.db"


def sqlite_uri(path: Path) -> str:
    """Return the URI of an SQLite file, with `?`, `#`, `%` and other letters escaped if there are any."""
    plain, escaped = f"sqlite:///{path}", f"sqlite+pysqlite:///{quote(str(path))}"
    if plain.endswith(quote(str(path))):
        return plain
    import sqlalchemy

    # MLflow makes the folder of a file whose URI begins with sqlite:///, and does not undo the escapes before.
    return escaped if sqlalchemy.make_url(escaped).database == str(path) else plain  # SQLAlchemy 2.0 has no escapes


def sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite URI; None for other stores."""
    if not uri.startswith("sqlite"):
        return None
    import sqlalchemy

    database = sqlalchemy.make_url(uri).database
    return Path(database) if database and database != ":memory:" and not database.startswith("file:") else None


def shown(uri: str) -> str:
    """Format an address for people: an SQLite file as its path, others without passwords."""
    file = sqlite_file(uri)
    return str(file) if file else without_password(uri)


def without_password(uri: str) -> str:
    """Return a URI without the password that it may have."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1@", uri)


def _folder(uri: str) -> Path | None:
    """Return the folder that a path or a file: URI names, as MLflow once kept runs in; None for others."""
    if uri.startswith("file:"):
        return Path(unquote(urlsplit(uri).path)).absolute()
    named = re.match(r"[a-z][a-z0-9+.-]*:", uri) or uri in ("databricks", "databricks-uc", "uc")
    return None if named else Path(uri).expanduser().absolute()


# --- whether a store answers --------------------------------------------------------------------


def problem(uri: str) -> str | None:
    """Ask a store for a sign of life, once a process; returns what is wrong with it in a few words, or None."""
    if uri not in _problems:
        _problems[uri] = _problem(uri)
    return _problems[uri]


def known_problem(uri: str) -> str | None:
    """Return what this process knows to be wrong with a store, without asking it."""
    return _problems.get(uri)


def set_problem(uri: str, text: str) -> None:
    """Remember that this process cannot use a store."""
    _problems[uri] = text


def _problem(uri: str) -> str | None:
    from mlflow.environment_variables import MLFLOW_ALLOW_FILE_STORE

    folder = _folder(uri)
    if folder and not MLFLOW_ALLOW_FILE_STORE.get():
        better = sqlite_uri(folder / "mlflow.db")
        return f"MLflow keeps runs in databases, no longer in folders; write MLFLOW_TRACKING_URI={better}"
    asking = run_in_thread(lambda: _ask(uri))  # drivers of databases may take minutes to give up
    try:
        asking.result(ANSWER_S)
    except NoAnswer:
        return f"no answer within {ANSWER_S:.0f} s"
    except Exception as error:
        return in_short(error)
    return None


def _ask(uri: str) -> None:
    """Raises: whatever a store raises that does not work. One that is busy does."""
    import sqlalchemy
    from mlflow.store.db.db_types import DATABASE_ENGINES
    from mlflow.tracking import MlflowClient

    if urlsplit(uri).scheme.split("+")[0] not in DATABASE_ENGINES:
        MlflowClient(uri).search_experiments(max_results=1)
        return
    file = sqlite_file(uri)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
    # Not MLflow's engine, which tries ten times, for two minutes. An SQLite file that others write to is no problem.
    engine = sqlalchemy.create_engine(uri, connect_args={"timeout": 0.5} if file else {})
    try:
        with engine.connect() as connection:
            if file:
                connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # fails where nothing can be written
    except sqlalchemy.exc.OperationalError as error:
        if "database is locked" not in str(error):
            raise
    finally:
        engine.dispose()


def in_short(error: BaseException) -> str:
    """Format an error of a store in one line."""
    text = str(error)
    if "Connection refused" in text:
        return "nothing listens there"
    if "Max retries exceeded" in text or "timed out" in text.lower():
        return "no answer"
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    first = re.sub(r"^\(\S+\) ", "", lines[0])
    return first if len(first) <= 160 else f"{first[:160]}…"


# --- records ------------------------------------------------------------------------------------


def read(uri: str, ask: "Callable[[MlflowClient], T]", otherwise: T) -> T:
    """Return what a store answers, or `otherwise` while it does not.

    Raises: MlflowException when there is no such run.
    """
    if _is_out(uri):
        return otherwise
    try:
        return ask(_client(uri))
    except Exception as error:
        if _is_refusal(error):
            raise
        _note(uri, error, "")
        return otherwise


def write(uri: str, out: Path, record: Record) -> None:
    """Give a record to a store; one that fails gets it later, and it is kept in `out` until then. Never raises."""
    if _is_out(uri):
        _keep(out, [record])
        return
    try:
        send_pending(uri, out)
        _send(_client(uri), record)
        if _outages.pop(uri, None):
            say(f"note: MLflow at {shown(uri)} answers again, and has what was kept")
    except Exception as error:
        if _is_refusal(error):
            _set_aside(out, record, error)
            return
        _keep(out, [record])
        _note(uri, error, f"; what it does not take is kept in {out / PENDING}, and it gets that later")


def pending(out: Path) -> int:
    """Count the records in `out` that wait for their store."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in out.glob(f"{PENDING}*"))


def send_pending(uri: str, out: Path, *, leftovers: bool = False) -> None:
    """Give a store the records that wait in `out`; `leftovers`: also of a process that was killed while it did so.

    Raises: the error of the store; the records that it did not take wait again.
    """
    mine = out / f"{PENDING}.{os.getpid()}"
    for path in sorted(out.glob(f"{PENDING}*")) if leftovers else [out / PENDING]:
        try:
            path.rename(mine)  # only one process can
        except OSError:
            continue
        records = [json.loads(line) for line in mine.read_text(encoding="utf-8").splitlines()]
        try:
            while records:
                try:
                    _send(_client(uri), records[0])
                except Exception as error:
                    if not _is_refusal(error):
                        raise
                    _set_aside(out, records[0], error)
                records.pop(0)
        finally:
            _keep(out, records)
            mine.unlink()


def _client(uri: str) -> "MlflowClient":
    from mlflow.tracking import MlflowClient

    if reason := problem(uri):
        raise ConnectionError(reason)
    return MlflowClient(uri)


def _send(client: "MlflowClient", record: Record) -> None:
    from mlflow.entities import Metric, RunTag

    run = record["run"]
    metrics = [Metric(*values) for values in record.get("metrics", ())]
    for start in range(0, len(metrics), METRICS_AT_ONCE):
        client.log_batch(run, metrics=metrics[start : start + METRICS_AT_ONCE])
    if tags := record.get("tags"):
        client.log_batch(run, tags=[RunTag(key, value) for key, value in tags.items()])
    artifact = record.get("artifact")
    if artifact and Path(artifact[0]).exists():  # a checkpoint may have been replaced since
        client.log_artifact(run, *artifact)
    if status := record.get("status"):
        client.set_terminated(run, *status)


def _set_aside(out: Path, record: Record, error: Exception) -> None:
    say(f"warning: MLflow refuses what is kept in {out / ASIDE} now: {in_short(error)}")
    _keep(out, [record], ASIDE)


def _keep(out: Path, records: list[Record], name: str = PENDING) -> None:
    if not records:
        return
    try:
        with (out / name).open("a", encoding="utf-8") as file:  # short appends of several processes do not mix
            file.write("".join(json.dumps(record) + "\n" for record in records))
    except OSError as error:
        say(f"warning: {len(records)} records for MLflow are lost: {error}")


def _is_refusal(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.error_code in REFUSED


def _is_out(uri: str) -> bool:
    outage = _outages.get(uri)
    return outage is not None and time.monotonic() < outage.next_try


def _note(uri: str, error: Exception, then: str) -> None:
    """Leave a store alone for a while that failed; say so when it is the first time."""
    outage = _outages.get(uri)
    pause = min(2 * outage.pause_s, RETRY_AT_MOST_S) if outage else RETRY_S
    if outage is None:
        say(f"warning: MLflow at {shown(uri)} fails ({in_short(error)}): the job goes on{then}")
    _outages[uri] = Outage(time.monotonic() + pause, pause)
    if _problems.get(uri):
        del _problems[uri]  # ask again next time
