"""A disk that is full: one line, and the same command goes on once there is space."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from job_processes import run_job

from boltzray.sampling.sample_files import read_samples

ARGUMENTS = ("sequence=DG", "samples=12000", "sampler=snis", "cluster.num_cpus=2", "data_dir=none")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own, which takes root's rights."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_full_disk_is_one_line_and_the_run_goes_on(home: Path, disk: Path) -> None:
    full = run_job(home, "sample", *ARGUMENTS, f"out={disk / 'out'}")
    assert full.returncode == 2, full.stderr
    (line,) = [line for line in full.stderr.splitlines() if line.startswith("error: ")]
    assert "no space is left on a disk" in line
    assert "Traceback" not in full.stderr
    subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
    done = run_job(home, "sample", *ARGUMENTS, f"out={disk / 'out'}")
    assert done.returncode == 0, done.stderr
    whole = run_job(home, "sample", *ARGUMENTS, "out=whole")
    assert whole.returncode == 0, whole.stderr
    one, two = (read_samples(folder)[1][-1] for folder in (disk / "out", home / "whole"))
    np.testing.assert_array_equal(np.concatenate(list(one.chunks)), np.concatenate(list(two.chunks)))
    np.testing.assert_array_equal(one.log_weights, two.log_weights)
