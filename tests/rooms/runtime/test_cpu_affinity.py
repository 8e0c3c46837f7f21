"""Processes that compute take a core each, and give it back however they end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from boltzray.runtime.cluster import usable_cpus

CODE = """
import os, sys
if len(sys.argv) > 1:
    os.sched_setaffinity(0, {int(sys.argv[1])})
from boltzray.runtime.cpu_affinity import own_core
print(own_core(), own_core(), flush=True)
sys.stdin.read()
"""


pytestmark = [
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be pinned here"),
    pytest.mark.skipif(usable_cpus() < 2, reason="needs two cores"),
]


def start(root: Path, home: Path, *core: str) -> tuple[subprocess.Popen[str], set[str]]:
    """Start a process that takes a core twice, of all cores or of the one given; returns it and what it got."""
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *core],
        cwd=root,
        env={**os.environ, "TMPDIR": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    return process, set(process.stdout.readline().split())


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


def test_a_core_is_shared_when_all_are_taken(root: Path, tmp_path: Path) -> None:
    one, (core,) = start(root, tmp_path)
    two, found = start(root, tmp_path, core)
    assert found == {core}
    for process in (one, two):
        process.communicate()
