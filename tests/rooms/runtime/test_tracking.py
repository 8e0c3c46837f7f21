"""MLflow as people have it: shared databases, odd addresses, stores that are down, and folders with odd names."""

import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from boltzray.runtime import beside, mlflow_store
from boltzray.runtime.mlflow_store import PENDING, shown, sqlite_uri, tracking_uri
from boltzray.runtime.tracking import Tracker, send_pending

CODE = """
import sys
from pathlib import Path
from boltzray.runtime.tracking import Tracker
Path(sys.argv[1]).mkdir()
print(Tracker.open("sample", Path(sys.argv[1]), {"seed": 1}).run_id)
"""


def test_jobs_may_make_the_database_together(root: Path, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    environment |= {"BOLTZRAY_HOME": str(tmp_path), "PYTHONPATH": str(root)}
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, str(tmp_path / name)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    ends = [(*job.communicate(), job.returncode) for job in jobs]
    assert [code for _, _, code in ends] == [0, 0], ends
    assert len({out for out, _, _ in ends}) == 2


@pytest.fixture(autouse=True)
def unknown() -> Iterator[None]:
    """As in a new process, where nothing is known of any store."""
    mlflow_store._problems.clear()
    mlflow_store._outages.clear()
    yield
    mlflow_store._problems.clear()
    mlflow_store._outages.clear()


def opened(home: Path, name: str) -> Tracker:
    (home / name).mkdir(exist_ok=True)
    return Tracker.open("sample", home / name, {"seed": 1})


def nobody() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("./mlruns", "write MLFLOW_TRACKING_URI=sqlite:///"),
        ("file:///tmp/mlruns", "write MLFLOW_TRACKING_URI=sqlite:////tmp/mlruns/mlflow.db)"),
        ("carrier-pigeon://x", "carrier-pigeon"),
        ("sqlite:////proc/nowhere/mlflow.db", "/proc/nowhere"),
        ("sqlite:///text.db", "file is not a database"),
        ("sqlite:///file:read_only.db?mode=ro&uri=true", "readonly database"),
        ("postgresql://me:secret@127.0.0.1:9/mlflow", "psycopg"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line_and_the_run_is_tracked_at_home(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uri: str, reason: str
) -> None:
    monkeypatch.chdir(home)
    (home / "text.db").write_text("no database, but something that is long enough to be looked at" * 20)
    sqlite3.connect(home / "read_only.db").close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    began = time.monotonic()
    with opened(home, "a") as tracker:
        tracker.log({"ess": 0.5})
    assert time.monotonic() - began < 20
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("note: MLflow cannot use ")
    assert reason in line
    assert line.endswith(f"runs are tracked in {home / 'mlflow.db'} instead")
    assert "secret" not in line + (home / "a" / "mlflow_run").read_text()
    found = Tracker.find(home / "a")
    assert found is not None
    assert found.latest() == {"ess": 0.5}
    with opened(home, "b"):  # said once a process
        assert not capsys.readouterr().out
    assert opened(home, "a").run_id == tracker.run_id  # and gone on with
    assert not (home / "mlruns").exists()


def test_a_server_that_is_down_takes_seconds(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := nobody())
    began = time.monotonic()
    with opened(home, "a") as tracker:
        assert time.monotonic() - began < 8
        assert tracker.uri == sqlite_uri(home / "mlflow.db")
    assert f"MLflow cannot use {uri} (nothing listens there)" in capsys.readouterr().out


def test_a_server_that_is_silent_takes_seconds(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mlflow_store, "ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, and never answers
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert opened(home, "a").uri == sqlite_uri(home / "mlflow.db")
    assert "no answer" in capsys.readouterr().out


def test_where_no_database_can_be_made_at_home_it_lies_in_the_results_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BOLTZRAY_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").mkdir()
    with opened(tmp_path, "a") as tracker:
        tracker.log({"ess": 0.5})
    assert tracker.uri == sqlite_uri(tmp_path / "a" / "mlflow.db")
    assert "unable to open database file" in capsys.readouterr().out
    assert tracker.latest() == {"ess": 0.5}


def test_a_store_that_fails_meanwhile_gets_everything_later(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A database whose table of runs is away for a while: MLflow waits 20 s for one that is locked."""
    uri, database = tracking_uri(), sqlite3.connect(home / "mlflow.db", isolation_level=None)
    (home / "figure.png").write_bytes(b"figure")
    with opened(home, "a") as tracker:
        tracker.log({"loss": 3.0}, step=1)
        database.execute("ALTER TABLE runs RENAME TO away")
        for step in range(2, 6):
            tracker.log({"loss": 3.0 - step, "nan": float("nan")}, step=step)
        tracker.tag({"status": "fine"})
        tracker.artifact(home / "figure.png", "report")
        assert tracker.latest() == {}
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert f"kept in {home / 'a' / PENDING}" in lines[0]
    assert "7 records wait for MLflow" in lines[1]
    database.execute("ALTER TABLE away RENAME TO runs")
    database.close()
    mlflow_store._outages.clear()  # the next job
    send_pending(home / "a")
    assert not list((home / "a").glob(f"{PENDING}*"))
    assert [step for step, _ in tracker.history("loss")] == [1, 2, 3, 4, 5]
    assert tracker.facts()["status"] == "fine"
    run = MlflowClient(uri).get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert [f.path for f in MlflowClient(uri).list_artifacts(tracker.run_id, "report")] == ["report/figure.png"]


@pytest.mark.parametrize("name", ["a?b=c&d#e%41 f", "ä é"])
def test_any_name_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("BOLTZRAY_HOME", raising=False)
    monkeypatch.chdir(home)
    with opened(home, "out") as tracker:
        tracker.log({"ess": 0.5})
        (home / "figure.png").write_bytes(b"figure")
        tracker.artifact(home / "figure.png", "report")
    with sqlite3.connect(home / "mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    (stored,) = (home / "mlartifacts").rglob("figure.png")
    assert stored.parts[-2:] == ("report", "figure.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]
    assert sorted(p.name for p in home.iterdir()) == ["figure.png", "mlartifacts", "mlflow.db", "mlflow.db.lock", "out"]


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
    assert tracking_uri() == f"sqlite:///{tmp_path}/mine.db"  # workers have another working folder
    assert shown("postgresql://me:secret@host/mlflow") == "postgresql://me@host/mlflow"
    assert shown(sqlite_uri(Path("/a?b/mlflow.db"))) == "/a?b/mlflow.db"


BESIDE = """
import sys
from pathlib import Path
from boltzray.runtime import beside
from boltzray.runtime.environment import prepare
from boltzray.runtime.run_folder import RunFolder
prepare()
beside.start("boltzray.runtime.mlflow_process")
out = Path(sys.argv[1])
out.mkdir()
settings = {"sequence": "AA", "checkpoint": "boltzray://peptides-small"}
with RunFolder(out, "sample", settings).track() as tracker:
    tracker.log({"ess": 0.5}, step=3)
    (out / "page.html").write_text("a page")
    tracker.artifact(out / "page.html", "report")
    print(tracker.facts()["python"])
    assert "mlflow" not in sys.modules
    if len(sys.argv) > 2:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
beside.end()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_process_beside_the_job_logs_all_that_it_was_told(root: Path, home: Path, killed: bool) -> None:
    """And the job does not import MLflow. One that is killed has logged what it had told."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    own = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", BESIDE, str(home / "a"), *["kill"] * killed], env=own, capture_output=True, text=True
    )
    assert done.returncode == (-9 if killed else 0), done.stderr
    client = MlflowClient(uri)
    deadline = time.monotonic() + 60
    while True:
        (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
        files = [f.path for f in client.list_artifacts(run.info.run_id, "report")]
        if files or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    assert files == ["report/page.html"]
    assert run.data.metrics == {"ess": 0.5}
    assert run.info.status == ("RUNNING" if killed else "FINISHED")
    assert run.info.run_name == "sample AA peptides-small"


def test_a_process_beside_the_job_that_dies_stops_nothing(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What it had to log is lost, and said; what comes after is logged from the job itself."""
    beside.start("boltzray.runtime.mlflow_process")
    try:
        with opened(home, "a") as tracker:
            assert tracker.facts()["python"]
            process = beside.running()
            assert process is not None
            with pytest.raises(RuntimeError, match="KeyError"):  # errors are told as text
                process.call("ask", -1, "facts")
            process.process.kill()
            process.process.wait()
            tracker.log({"ess": 0.5})
            assert tracker.facts() == {}
        assert "has died" in capfd.readouterr().err
        with opened(home, "b") as tracker:
            tracker.log({"ess": 0.25})
        found = Tracker.find(home / "b")
        assert found is not None
        assert found.latest() == {"ess": 0.25}
    finally:
        beside.end()
