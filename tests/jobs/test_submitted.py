"""Jobs submitted to a cluster of one machine: `ray start --head`, `ray job submit`, and the end of either."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from job_processes import environment
from restarts import ARGUMENTS, has_begun
from sockets import public

RAY = str(Path(sys.executable).with_name("ray"))
TRAIN = [
    "data.sequences=[GP]",
    "train.steps=100000",
    "train.batch=16",
    "model.channels=16",
    "model.head_dim=8",
    "model.layers_per_block=2",
    "checkpoint_every=20",
]


def wait_for(what: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Head:
    """A Ray head on loopback, with two CPUs and a token."""

    def __init__(self, root: Path, home: Path, folder: Path) -> None:
        dashboard = free_port()
        self.environment = environment(home) | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        }
        ports = [f"--{name}-port={free_port()}" for name in ("ray-client-server", "dashboard-agent-listen")]
        command = [RAY, "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}", f"--port={free_port()}"]
        command += [f"--dashboard-port={dashboard}", "--node-ip-address=127.0.0.1", *ports]
        self.log = folder / "head.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=root, env=self.environment, stdout=log, stderr=log)
        wait_for(self.answers)

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with suppress(OSError):
            url = self.environment["RAY_API_SERVER_ADDRESS"] + "/api/jobs/"
            token = self.environment["RAY_AUTH_TOKEN"]
            urllib.request.urlopen(
                urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"}), timeout=10
            )
            return True
        return False

    def job(self, *arguments: str) -> str:
        """`ray job …`; what it said."""
        done = subprocess.run(
            [RAY, "job", *arguments], env=self.environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def started(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self) -> None:
        """SIGKILL to all of it, as when a machine loses power."""
        there = [psutil.Process(self.process.pid), *self.started()]
        for one in there:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()
        psutil.wait_procs(there, timeout=30)


@contextmanager
def head(root: Path, home: Path) -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="r"))  # short: it holds sockets
    running = Head(root, home, folder)
    try:
        yield running
    finally:
        running.kill()
        shutil.rmtree(folder, ignore_errors=True)


def actors(running: Head) -> set[str]:
    """Kinds of our actors, and of Ray Train's and Ray Data's workers, that have a process."""
    found = set()
    for one in running.started():
        with suppress(psutil.NoSuchProcess):
            found.add((one.cmdline() or [""])[0].split(".")[0])
    return {name for name in found if name.startswith(("ray::FlowServer", "ray::RayTrainWorker", "ray::BatchServer"))}


@pytest.mark.slow  # a minute and a half: two heads and three jobs
@pytest.mark.ray
def test_a_job_submitted_again_after_its_head_was_killed_goes_on(root: Path, home: Path, checkpoint: Path) -> None:
    def sampling(out: str) -> list[str]:
        command = ["python", "jobs/sample.py", f"checkpoint={checkpoint}", f"out={out}", *ARGUMENTS]
        return [f"--submission-id={out}", "--", *command]

    with head(root, home) as first:
        first.job("submit", "--no-wait", *sampling("a"))
        wait_for(lambda: has_begun(home / "a"))
        assert not public(psutil.Process(first.process.pid))
    assert not (home / "a" / "samples.npz").exists()

    with head(root, home) as second:
        again = second.job("submit", *sampling("a"))
        assert "SMC goes on after step" in again
        assert "'a' succeeded" in again
        assert "'undisturbed' succeeded" in second.job("submit", *sampling("undisturbed"))

    with np.load(home / "a" / "samples.npz") as one, np.load(home / "undisturbed" / "samples.npz") as two:
        assert set(one) == set(two)
        for name in one:
            assert np.array_equal(one[name], two[name]), name


@pytest.mark.slow  # half a minute for what Ray does: a driver's actors end with it
@pytest.mark.ray
def test_a_training_that_is_stopped_leaves_no_process(root: Path, home: Path, data: Path) -> None:
    training = ["--submission-id=b", "--", "python", "jobs/train.py", "out=b", f"data.path={data}", *TRAIN]
    with head(root, home) as running:
        running.job("submit", "--no-wait", *training)
        wait_for((home / "b" / "checkpoint" / "flow.json").exists)
        assert "ray::RayTrainWorker" in actors(running)
        assert not public(psutil.Process(running.process.pid))
        assert "was stopped" in running.job("stop", "b")
        wait_for(lambda: not actors(running), 30)
