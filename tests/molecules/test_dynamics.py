"""Molecular dynamics: temperature, resuming bit for bit, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from boltzray.molecules import Peptide
from boltzray.molecules.constants import KB
from boltzray.molecules.dynamics import simulate
from boltzray.molecules.forcefield import create_system
from boltzray.molecules.runs import MDConfig, load_trajectory, run_name

ROOT = Path(__file__).parents[2]
SHORT = MDConfig(warmup_ps=0.5, interval_ps=0.05, frames_per_chunk=4)


@pytest.fixture(scope="module")
def peptide() -> Peptide:
    return Peptide.from_sequence("AA")


@pytest.fixture(scope="module")
def undisturbed(peptide: Peptide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("undisturbed")
    assert len(list(simulate(peptide, directory, SHORT, 0.8, seed=5))) == 4
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*.npz"))}


def test_temperature(peptide: Peptide, tmp_path: Path) -> None:
    """Strong friction decorrelates the kinetic energy within 0.1 ps: 10 ps hold about 100 values."""
    config = MDConfig(warmup_ps=1.0, interval_ps=0.1, friction_per_ps=10.0, timestep_fs=0.5)
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    for _ in simulate(peptide, tmp_path, config, 10.0, seed=1):
        assert affinity is None or os.sched_getaffinity(0) == affinity  # between the chunks as well
    with np.load(tmp_path / "chunks" / "chunk_0.npz") as chunk:
        velocities, positions = chunk["velocities"], chunk["positions"]
    assert velocities.dtype == positions.dtype == np.float32
    assert velocities.shape == positions.shape == (100, 23, 3)
    system = create_system(peptide)
    mass = np.array([system.getParticleMass(i)._value for i in range(23)])[:, None]
    freedom = 3 * 23 - 3  # the centre of mass is kept at rest
    temperature = (mass * velocities.astype(np.float64) ** 2).sum((1, 2)) / (freedom * KB)
    mean, error = temperature.mean(), 310 * np.sqrt(2 / freedom) / np.sqrt(50)
    assert abs(mean - 310) < 5 * error, f"{mean:.1f} ± {error:.1f} K, expected 310 K"


def test_run_again_is_identical_and_another_seed_is_not(peptide: Peptide, undisturbed: Path, tmp_path: Path) -> None:
    list(simulate(peptide, tmp_path / "same", SHORT, 0.8, seed=5))
    assert contents(tmp_path / "same") == contents(undisturbed)
    list(simulate(peptide, tmp_path / "other", SHORT, 0.2, seed=6))
    assert not np.array_equal(load_trajectory(tmp_path / "other"), load_trajectory(undisturbed)[:4])


def test_killed_run_resumes_identically(peptide: Peptide, undisturbed: Path, tmp_path: Path) -> None:
    code = (
        "from boltzray.molecules import Peptide; from boltzray.molecules.dynamics import simulate\n"
        "from boltzray.molecules.runs import MDConfig\n"
        f"for _ in simulate(Peptide.from_sequence('AA'), {str(tmp_path)!r}, {SHORT!r}, 500, seed=5): pass"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "chunks" / "chunk_1.npz").exists():
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    made = len(contents(tmp_path)) - 1
    progress = list(simulate(peptide, tmp_path, SHORT, 0.8, seed=5))
    assert len(progress) == max(0, 4 - made)
    assert [p.chunks_total for p in progress] == [4] * len(progress)
    expected, resumed = contents(undisturbed), contents(tmp_path)
    assert {name: resumed[name] for name in expected} == expected


def test_lost_files_are_made_again(peptide: Peptide, undisturbed: Path, tmp_path: Path) -> None:
    first = next(simulate(peptide, tmp_path, SHORT, 0.8, seed=5))
    assert (first.chunks_done, first.chunks_total) == (1, 4)
    assert first.ps_per_second > 0
    (tmp_path / "warmup.npz").unlink()  # not needed any more: chunk 0 is there
    (tmp_path / "chunks" / ".chunk_1.npz.1").write_bytes(b"half a chunk")
    list(simulate(peptide, tmp_path, SHORT, 0.8, seed=5))
    assert not (tmp_path / "warmup.npz").exists()
    assert contents(tmp_path)["chunks/chunk_3.npz"] == contents(undisturbed)["chunks/chunk_3.npz"]
    (tmp_path / "chunks" / "chunk_2.npz").unlink()
    with pytest.raises(ValueError, match=r"chunk_2.npz is missing .*simulate again"):
        load_trajectory(tmp_path)
    assert [p.chunks_done for p in simulate(peptide, tmp_path, SHORT, 0.8, seed=5)] == [4]
    np.testing.assert_array_equal(load_trajectory(tmp_path), load_trajectory(undisturbed))


def test_every_chunk_has_its_own_noise(peptide: Peptide, undisturbed: Path, tmp_path: Path) -> None:
    """A chunk 1 that starts where chunk 0 started is another trajectory."""
    list(simulate(peptide, tmp_path, SHORT, 0.2, seed=5))
    (tmp_path / "chunks" / "chunk_0.npz").write_bytes((tmp_path / "warmup.npz").read_bytes())
    list(simulate(peptide, tmp_path, SHORT, 0.4, seed=5))
    first, second = load_trajectory(undisturbed)[:4], load_trajectory(tmp_path)[-4:]
    assert np.abs(first - second).max() > 1e-3


def test_longer_time_extends_and_shorter_does_nothing(peptide: Peptide, tmp_path: Path) -> None:
    assert len(list(simulate(peptide, tmp_path, SHORT, 0.2, seed=5))) == 1
    assert [p.chunks_done for p in simulate(peptide, tmp_path, SHORT, 0.35, seed=5)] == [2]
    assert list(simulate(peptide, tmp_path, SHORT, 0.1, seed=5)) == []
    frames = load_trajectory(tmp_path)
    assert frames.shape == (8, 23, 3)
    assert frames.dtype == np.float32


def test_other_settings_are_refused(peptide: Peptide, undisturbed: Path) -> None:
    before = contents(undisturbed)
    other = MDConfig(warmup_ps=0.5, interval_ps=0.05, frames_per_chunk=4, temperature_k=300.0)
    with pytest.raises(ValueError, match=r"holds another run \(seed was 5 and is now 6; temperature_k was 310.0"):
        list(simulate(peptide, undisturbed, other, 0.8, seed=6))
    with pytest.raises(ValueError, match="sequence was AA and is now AG"):
        list(simulate(Peptide.from_sequence("AG"), undisturbed, SHORT, 0.8, seed=5))
    assert contents(undisturbed) == before
    record = json.loads((undisturbed / "run.json").read_text())
    assert record["settings"]["seed"] == 5
    assert record["versions"][0]["from_chunk"] == 0
    assert "openmm" in record["versions"][0]["versions"]


def test_damaged_chunk_is_named(peptide: Peptide, tmp_path: Path) -> None:
    list(simulate(peptide, tmp_path, SHORT, 0.2, seed=5))
    path = tmp_path / "chunks" / "chunk_0.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"chunk_0.npz cannot be read: delete it"):
        load_trajectory(tmp_path)
    with pytest.raises(ValueError, match=r"chunk_0.npz cannot be read: delete it"):
        list(simulate(peptide, tmp_path, SHORT, 0.4, seed=5))


def test_divergence_is_named(peptide: Peptide, tmp_path: Path) -> None:
    wild = MDConfig(timestep_fs=20.0, warmup_ps=20.0, interval_ps=0.2, frames_per_chunk=2)
    with pytest.raises(RuntimeError, match=r"failed in the warm-up \(.*lower timestep_fs=20"):
        list(simulate(peptide, tmp_path, wild, 1.0, seed=1))
    assert contents(tmp_path) == {}


def test_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no chunks under"):
        load_trajectory(tmp_path)


def test_names() -> None:
    assert run_name("AA", MDConfig()) == "AA_310_1_100"
    assert run_name("ARIP", SHORT, replica=2) == "ARIP_310_0.05_4_r2"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature_k", 0.0, "temperature_k=0.0: give a positive"),
        ("timestep_fs", float("nan"), "timestep_fs=nan: give a positive"),
        ("friction_per_ps", -1.0, "friction_per_ps=-1.0"),
        ("warmup_ps", -1.0, "warmup_ps=-1.0: give zero"),
        ("interval_ps", 0.0005, "not a whole number of steps"),
        ("interval_ps", 0.0015, "not a whole number of steps"),
        ("frames_per_chunk", 0, "frames_per_chunk=0: give at least 1"),
        ("forcefield", "charmm", "unknown force field 'charmm'"),
    ],
)
def test_bad_settings(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MDConfig(**{name: value})  # type: ignore[arg-type]


def test_bad_time(peptide: Peptide, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="time_ps=0"):
        list(simulate(peptide, tmp_path, SHORT, 0, seed=1))
