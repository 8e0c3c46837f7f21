"""The jobs as a user meets them: errors of one line, Ctrl-C, and going on afterwards."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

MD = [
    "replicas=2",
    "hold_out=1",
    "md.interval_ps=0.01",
    "md.frames_per_chunk=20",
    "md.warmup_ps=0.2",
    "cluster.num_cpus=2",
    "time_ns=0.0008",
]
TRAIN = [
    "data.sequences=[GP]",
    "train.steps=80",
    "train.batch=64",
    "model.channels=16",
    "model.head_dim=8",
    "model.blocks=2",
    "checkpoint_every=20",
    "log_every=10",
    "workers.threads=1",
    "cluster.num_cpus=2",
]


def command(root: Path, job: str, *arguments: str) -> list[str]:
    return [sys.executable, str(root / "jobs" / f"{job}.py"), *arguments]


def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    return {**kept, "BOLTZRAY_HOME": str(home), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}


def run(root: Path, home: Path, job: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(root, job, *arguments), cwd=home, env=environment(home), capture_output=True, text=True, timeout=300
    )


@contextmanager
def started(root: Path, home: Path, job: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A job in the background, in a home of its own."""
    home.mkdir()
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command(root, job, *arguments), cwd=home, env=environment(home), stdout=pipe, stderr=pipe, text=True
    )
    try:
        yield process
    finally:
        process.kill()


def ended(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def interrupted(root: Path, home: Path, done: Path, job: str, *arguments: str) -> str:
    """Start a job and press Ctrl-C as soon as `done` exists."""
    process = subprocess.Popen(
        command(root, job, *arguments),
        cwd=home,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background shells ignore it
    )
    deadline = time.monotonic() + 280
    try:
        while not done.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, out
    return out


@pytest.mark.parametrize(
    ("job", "arguments", "message"),
    [
        ("simulate", ["sequences=[AXZ]"], "unknown residue 'X' at position 2 of 'AXZ'"),
        ("simulate", ["sequences=['']"], "the sequence is empty"),
        ("train", ["foo=1"], "unknown key foo"),
        ("train", ["model=huge"], "Available options in 'model'"),
        ("sample", ["sequence=AA", "checkpoint=nowhere"], "train one"),
        ("sample", [], "give a peptide"),
        ("evaluate", ["samples=[nowhere]"], "sample first"),
    ],
)
def test_bad_input_is_one_line(root: Path, tmp_path: Path, job: str, arguments: list[str], message: str) -> None:
    done = run(root, tmp_path, job, *arguments)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_a_pdb_with_a_missing_atom_is_named(root: Path, tmp_path: Path, data: Path) -> None:
    text = (data / "pdbs" / "test" / "AA.pdb").read_text().splitlines(keepends=True)
    (tmp_path / "broken.pdb").write_text("".join(line for line in text if not (" HB2 " in line and " A   1 " in line)))
    from boltzray import models

    models.save(models.Flow(models.FlowConfig(channels=16, head_dim=8, blocks=1, layers_per_block=1)), tmp_path / "f")
    done = run(root, tmp_path, "sample", "pdb=broken.pdb", "checkpoint=f")
    assert done.returncode == 2
    assert "HB2" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_without_shards_says_where_it_looked(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run(root, tmp_path, "train", "data.path=empty", "cluster.num_cpus=1")
    assert done.returncode == 2
    assert str(tmp_path / "empty") in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_help_lists_keys_and_groups(root: Path, tmp_path: Path) -> None:
    done = run(root, tmp_path, "train", "--help", "keep=7")
    assert done.returncode == 0
    for part in (
        "python jobs/train.py",
        "model=internal, prose",
        "now laptop: Minutes",
        "keep: 7    ",
        "training checkpoints kept",
        "BOLTZRAY_HOME",
    ):
        assert part in done.stdout
    chosen = run(root, tmp_path, "sweep", "--help", "smc=mala").stdout  # a group of a file that it is made of
    assert "now mala: SMC with Metropolis" in chosen
    assert re.search(r"step_size: 0.0001 +# the first", chosen)
    assert "steps: 10000" in run(root, tmp_path, "train", "--cfg", "job").stdout


@pytest.mark.slow
def test_simulate_goes_on_after_ctrl_c(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with started(root, other, "simulate", "sequences=[GP]", *MD) as whole:
        first = tmp_path / "data" / "md" / "GP_310_0.01_20" / "chunks" / "chunk_0.npz"
        interrupted(root, tmp_path, first, "simulate", "sequences=[GP]", *MD)
        written = first.stat().st_mtime_ns
        done = run(root, tmp_path, "simulate", "sequences=[GP]", *MD)
        assert done.returncode == 0, done.stderr
        assert first.stat().st_mtime_ns == written
        ended(whole)
    names = sorted(p.relative_to(other / "data") for p in (other / "data").rglob("chunk_*.npz"))
    assert len(names) == 2 * 4
    for name in names:
        with np.load(tmp_path / "data" / name) as one, np.load(other / "data" / name) as two:
            assert np.array_equal(one["positions"], two["positions"])
    tars = [(home / "data" / "webdatasets" / "single_frames" / "0000.tar").read_bytes() for home in (tmp_path, other)]
    assert tars[0] == tars[1]


def test_train_goes_on_after_ctrl_c_as_if_nothing_had_happened(root: Path, tmp_path: Path, data: Path) -> None:
    from boltzray.runtime.tracking import Tracker

    where = [f"data.path={data}", *TRAIN]
    other = tmp_path / "other"
    with started(root, other, "train", "out=a", *where) as whole:
        stopped = interrupted(root, tmp_path, tmp_path / "a" / "checkpoint" / "flow.json", "train", "out=a", *where)
        assert "goes on from here" in stopped
        assert run(root, tmp_path, "train", "out=a", *where).returncode == 0
        ended(whole)
    from safetensors.torch import load_file

    one, two = (load_file(home / "a" / "checkpoint" / "model.safetensors") for home in (tmp_path, other))
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    losses = []
    for home in (tmp_path, other):
        uri = f"sqlite:///{home / 'mlflow.db'}"
        history = Tracker((home / "a" / "mlflow_run").read_text().strip(), uri).history("loss")
        assert [step for step, _ in history][-1] == 80
        losses.append(dict(history))
    assert losses[0] == losses[1]
    assert losses[1][80] < losses[1][10]
    again = run(root, tmp_path, "train", "out=a", *where)
    assert "already trained" in again.stdout
    changed = run(root, tmp_path, "train", "out=a", *where, "train.lr=0.5")
    assert changed.returncode == 2
    assert "train.lr" in changed.stderr


@pytest.mark.slow
def test_a_training_that_diverges_says_so_once(root: Path, tmp_path: Path, data: Path) -> None:
    wild = ["train.lr=1e8", "train.clip=1e9", "train.max_bad_steps=3", "train.precision=float32"]
    done = run(root, tmp_path, "train", "out=a", f"data.path={data}", *TRAIN, *wild)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "steps in a row had no finite loss or gradient" in done.stderr
    assert "lower train.lr" in done.stderr
