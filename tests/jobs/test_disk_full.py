"""A disk that is full: one line, what is finished stays whole, and the same command goes on once there is space."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from job_processes import run_job

from boltzray.molecules.storage import read_json
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


def fill(folder: Path) -> Path:
    """Write to a file until nothing more goes on the disk."""
    path = folder / "full"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"0" * 4096):
            pass
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


SHORT = ("sequence=AA", "samples=500", "sampler=snis", "cluster.num_cpus=2")
TRAIN = ("run=laptop", "train.steps=6", "checkpoint_every=3", "workers.workers=1", "cluster.num_cpus=2")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_results_store_and_checkpoints_on_a_full_disk(disk: Path, data: Path) -> None:
    """All is on one disk: an older result, the database of MLflow, and what is being written."""
    subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
    train = (*TRAIN, f"data.path={data}", "data.sequences=[GP,FS]")
    assert run_job(disk, "sample", *SHORT, f"data_dir={data}", "out=older").returncode == 0
    older = contents(disk / "older")
    for words in (
        ("sample", *SHORT, "data_dir=none", "out=newer"),
        ("evaluate", "samples=[older]", f"data_dir={data}", "intervals=5"),
        ("train", *train),
    ):
        filled = fill(disk)
        full = run_job(disk, *words)
        print(words[0], full.returncode, full.stderr)
        assert full.returncode in (0, 2), full.stderr
        assert "Traceback" not in full.stderr
        if full.returncode:
            (line,) = [line for line in full.stderr.splitlines() if line.startswith("error: ")]
            assert "no space is left on a disk" in line
        found = contents(disk / "older")
        assert found.keys() >= older.keys()
        assert {n for n in older if found[n] != older[n]} <= {"metrics.json", ".metrics.json.sha256", "report.html"}
        assert b"</html>" in found["report.html"]
        read_json(disk / "older" / "metrics.json")
        filled.unlink()
        done = run_job(disk, *words)
        assert done.returncode == 0, done.stderr
