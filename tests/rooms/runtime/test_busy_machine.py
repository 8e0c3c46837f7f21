"""A machine that stands still for longer than a minute, as under a swap storm: a local cluster goes on."""

import subprocess
import sys
from pathlib import Path

import pytest
from job_processes import environment

STALLED = """
import signal, time
import psutil
from boltzray.runtime.environment import prepare
prepare()
import ray
from boltzray.runtime.cluster import ClusterConfig, cluster
with cluster(ClusterConfig(num_cpus=1)):
    (raylet,) = [p for p in psutil.Process().children(recursive=True) if p.name() == "raylet"]
    raylet.send_signal(signal.SIGSTOP)
    time.sleep(90)
    raylet.send_signal(signal.SIGCONT)
    print("found", ray.get(ray.remote(lambda: 6 * 7).remote()))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_stalled_node_is_not_dead(home: Path) -> None:
    """Ray's own patience ended after 68 s, and the process that began the cluster ends with it."""
    done = subprocess.run(
        [sys.executable, "-c", STALLED], env=environment(home), cwd=home, capture_output=True, text=True, timeout=240
    )
    assert "found 42" in done.stdout, done.stderr
