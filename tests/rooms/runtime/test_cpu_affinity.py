"""Processes that compute take a core each, and give it back however they end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from boltzray.runtime.cluster import usable_cpus

CODE = """
import sys
from boltzray.runtime.cpu_affinity import own_core
print(own_core(), own_core(), flush=True)
sys.stdin.read()
"""


def start(root: Path, home: Path) -> tuple[subprocess.Popen[str], set[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE],
        cwd=root,
        env={**os.environ, "TMPDIR": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    return process, set(process.stdout.readline().split())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be pinned here")
@pytest.mark.skipif(usable_cpus() < 2, reason="needs two cores")
def test_each_process_has_its_own_core_until_it_ends(root: Path, tmp_path: Path) -> None:
    (one, first), (two, second) = start(root, tmp_path), start(root, tmp_path)
    assert len(first) == len(second) == 1
    assert first != second
    one.send_signal(signal.SIGKILL)
    one.communicate()
    three, third = start(root, tmp_path)
    assert third == first
    for process in (two, three):
        process.communicate()
