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
from job_processes import environment
from restarts import ARGUMENTS, has_begun, undisturbed
from sockets import public

from boltzray.sampling.sample import sample

RAY = str(Path(sys.executable).with_name("ray"))
TRAIN = [
    "data.sequences=[GP]",
    "train.steps=100000",
    "train.batch=16",
    "model.channels=16",
    "model.head_dim=8",
    "model.blocks=2",
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
    return {name for name in found if name.startswith(("ray::FlowServer", "ray::RayTrainWorker", "ray::Feeder"))}


def test_a_killed_head_a_job_submitted_again_and_one_that_is_stopped(
    root: Path, home: Path, data: Path, checkpoint: Path, ray_cluster: None
) -> None:
    sampling = ["--submission-id=a", "--", "python", "jobs/sample.py", f"checkpoint={checkpoint}", "out=a", *ARGUMENTS]
    with head(root, home) as first:
        first.job("submit", "--no-wait", *sampling)
        wait_for(lambda: has_begun(home / "a"))
    assert not (home / "a" / "samples.npz").exists()

    with head(root, home) as second:
        said = second.job("submit", *sampling)
        assert "SMC goes on after step" in said
        assert "'a' succeeded" in said

        second.job(
            "submit",
            "--no-wait",
            "--submission-id=b",
            "--",
            "python",
            "jobs/train.py",
            "out=b",
            f"data.path={data}",
            *TRAIN,
        )
        wait_for(lambda: (home / "b" / "checkpoint" / "flow.json").exists())
        assert "ray::RayTrainWorker" in actors(second)
        assert not public(psutil.Process(second.process.pid))
        assert "was stopped" in second.job("stop", "b")
        wait_for(lambda: not actors(second), 30)

    with (
        np.load(home / "a" / "samples.npz") as one,
        np.load(sample(undisturbed(checkpoint, "c")) / "samples.npz") as two,
    ):
        assert set(one) == set(two)
        for name in one:
            assert np.array_equal(one[name], two[name]), name
