"""Nothing listens on a public address by default."""

import os
import re
import subprocess
from pathlib import Path

import psutil
import pytest
from sockets import is_loopback, listening, public


@pytest.mark.usefixtures("ray_cluster")
def test_a_local_cluster_is_on_loopback_alone() -> None:
    """Driver, control store, raylet, dashboard, agents, workers."""
    import ray

    @ray.remote(num_cpus=1)
    def work() -> int:
        return os.getpid()

    worker = psutil.Process(ray.get(work.remote()))
    found = listening(psutil.Process())
    assert {"gcs_server", "raylet", worker.name()} <= found.keys()
    assert not public(psutil.Process())


def test_the_check_sees_a_public_address() -> None:
    import socket

    with socket.create_server(("0.0.0.0", 0)):
        seen = {address for on in listening(psutil.Process()).values() for address in on}
    assert not is_loopback("0.0.0.0")
    assert "0.0.0.0" in seen
    assert not is_loopback("::")
    assert not is_loopback("192.0.2.2")
    assert is_loopback("::ffff:127.0.0.1")


def test_mlflow_is_started_on_loopback(root: Path) -> None:
    made = subprocess.run(["make", "-n", "ui"], cwd=root, capture_output=True, text=True, check=True).stdout
    for text in (made, (root / "cluster" / "mlflow.sh").read_text()):
        assert set(re.findall(r"--host (\S+)", text)) == {"127.0.0.1"}
