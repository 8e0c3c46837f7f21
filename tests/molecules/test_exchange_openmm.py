"""Ladders moved by OpenMM: resuming bit for bit, temperatures of the rungs, divergence, and the files of the others."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boltzray.molecules import BatchedEnergy, OpenMMEnergy, Peptide, runs
from boltzray.molecules.batched.dynamics import Replicas
from boltzray.molecules.batched.exchange import BatchedLadders
from boltzray.molecules.constants import KB
from boltzray.molecules.dynamics import minimised
from boltzray.molecules.exchange_openmm import OpenMMLadders
from boltzray.molecules.ladder_dynamics import simulate_ladders
from boltzray.molecules.replica_exchange import ExchangeConfig, load_ladder
from boltzray.molecules.runs import MDConfig

MD = MDConfig(warmup_ps=0.05, interval_ps=0.02, frames_per_chunk=2)
EXCHANGE = ExchangeConfig(temperatures_k=(310.0, 380.0, 460.0), exchange_ps=0.01)
LADDER = (310.0, 380.0, 460.0)


@pytest.fixture(scope="module")
def peptide() -> Peptide:
    return Peptide.from_sequence("GG")


def run(peptide: Peptide, folders: list[Path], seeds: list[int], time_ps: float = 0.12) -> int:
    """Number of chunks that were made."""
    return len(
        list(simulate_ladders(OpenMMLadders(peptide, MD), peptide, folders, MD, EXCHANGE, LADDER, time_ps, seeds))
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.npz"))}


@pytest.fixture(scope="module")
def whole(peptide: Peptide, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two ladders of three chunks, undisturbed."""
    folders = [tmp_path_factory.mktemp("whole") / str(i) for i in range(2)]
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    assert run(peptide, folders, [5, 6]) == 3
    assert affinity is None or os.sched_getaffinity(0) == affinity
    return folders


def test_resumes_identically_alone_or_in_company(peptide: Peptide, whole: list[Path], tmp_path: Path) -> None:
    assert run(peptide, [tmp_path], [6], 0.04) == 1
    assert run(peptide, [tmp_path], [6]) == 2
    assert contents(tmp_path) == contents(whole[1])
    (tmp_path / "chunks" / "chunk_1.npz").unlink()
    assert run(peptide, [tmp_path], [6]) == 1
    assert contents(tmp_path) == contents(whole[1])
    assert run(peptide, [tmp_path], [6]) == 0
    assert contents(whole[0]) != contents(whole[1])


def test_walkers_swap_and_energies_are_of_the_positions(peptide: Peptide, whole: list[Path]) -> None:
    energy = OpenMMEnergy(peptide, platform="Reference")
    for folder in whole:
        ladder = load_ladder(folder)
        assert ladder.positions_nm.shape == (6, 3, peptide.n_atoms, 3)
        assert ladder.walkers.shape == (12, 3)
        np.testing.assert_array_equal(np.sort(ladder.walkers, axis=1), np.tile(np.arange(3), (12, 1)))
        expected = energy.evaluate(ladder.positions_nm.reshape(-1, peptide.n_atoms, 3).astype(float)).energy
        np.testing.assert_allclose(ladder.energy_kT.ravel(), expected, atol=0.01)
    assert any((np.diff(load_ladder(folder).walkers.astype(int), axis=0) != 0).any() for folder in whole)


def test_rows_are_at_their_temperatures(peptide: Peptide) -> None:
    """Kinetic energy, which strong friction decorrelates within 0.03 ps: 24 values of 48 degrees of freedom a rung."""
    config = MDConfig(friction_per_ps=50.0, timestep_fs=0.5, interval_ps=0.05)
    ladders, temperatures_k = OpenMMLadders(peptide, config), (310.0, 450.0, 600.0)
    rows = ladders.dynamics([1, 2], 0, temperatures_k)
    x = torch.from_numpy(peptide.positions).repeat(6, 1, 1)
    state, found = rows.advance(Replicas(x, torch.zeros_like(x)), 200), []
    freedom = 3 * peptide.n_atoms - 3
    for _ in range(12):
        state = rows.advance(state, 60)
        found.append((ladders.mass[:, None] * state.v**2).sum((1, 2)) / (freedom * KB))
    measured = torch.stack(found).view(-1, 3).numpy()
    error = np.array(temperatures_k) * np.sqrt(2 / freedom) / np.sqrt(len(measured))
    assert (np.abs(measured.mean(0) - temperatures_k) < 5 * error).all(), (measured.mean(0), error)


@pytest.mark.parametrize("engine", [OpenMMLadders, BatchedLadders])
def test_the_warm_up_of_ladders_takes_up_heat_and_their_chunks_keep_theirs(peptide: Peptide, engine: Any) -> None:
    """From rest at a minimum, 0.2 ps: with a friction of 5/ps most of the heat is there, with 0.3/ps a little."""
    config = MDConfig(timestep_fs=0.5, interval_ps=0.05)
    ladders = engine(peptide if engine is OpenMMLadders else BatchedEnergy(peptide), config)
    x = torch.from_numpy(minimised(peptide, config)).to(ladders.mass).repeat(8, 1, 1)
    share = []
    for key in (0, 1):
        state = ladders.dynamics(list(range(8)), key, (310.0,)).advance(Replicas(x, torch.zeros_like(x)), 400)
        kinetic = (ladders.mass[:, None] * state.v**2).sum((1, 2)).mean()
        share.append(float(kinetic) / (3 * peptide.n_atoms * KB * 310.0))
    assert share[0] > 0.4
    assert share[1] < 0.2


def test_warm_ups_of_earlier_versions_stay(
    peptide: Peptide, whole: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ladder that joins one which is there does not make it anew with today's friction."""
    folders = [tmp_path / "old", tmp_path / "new"]
    with monkeypatch.context() as earlier:
        earlier.setattr(runs, "WARMUP_FRICTION_PER_PS", MD.friction_per_ps)
        assert run(peptide, folders[:1], [6]) == 3
    before = contents(folders[0])
    assert before != contents(whole[1])
    assert run(peptide, folders, [6, 5], 0.04) == 1
    assert contents(folders[0]) == before
    assert len(load_ladder(folders[0]).positions_nm) == 6


def test_a_row_that_diverges_leaves_the_others_alone(peptide: Peptide) -> None:
    ladders = OpenMMLadders(peptide, MD)
    x = torch.from_numpy(peptide.positions).repeat(3, 1, 1)
    state = Replicas(x, torch.zeros_like(x))
    undisturbed = ladders.dynamics([1], 0, LADDER).advance(state, 10)
    bad = state.x.clone()
    bad[1] = np.nan
    rows = ladders.dynamics([1], 0, LADDER)
    moved = rows.advance(Replicas(bad, state.v), 10)
    assert torch.equal(moved.x[::2], undisturbed.x[::2])
    assert moved.x[1].isnan().all()
    assert rows.energy(moved.x).isfinite().tolist() == [True, False, True]


def test_divergence_is_named(peptide: Peptide, tmp_path: Path) -> None:
    wild, exchange = MDConfig(timestep_fs=20.0, warmup_ps=1.0, interval_ps=0.2), ExchangeConfig(exchange_ps=0.2)
    engine = OpenMMLadders(peptide, wild)
    with pytest.raises(RuntimeError, match="failed in the warm-up: lower timestep_fs, or the highest temperature") as e:
        list(simulate_ladders(engine, peptide, [tmp_path], wild, exchange, LADDER[:2], 1.0, seeds=[1]))
    assert "\n" not in str(e.value)
    assert not list(tmp_path.rglob("*.npz"))


def test_files_are_those_of_the_batched_engine(peptide: Peptide, whole: list[Path], tmp_path: Path) -> None:
    energy = BatchedEnergy(peptide).float()
    list(simulate_ladders(BatchedLadders(energy, MD), peptide, [tmp_path], MD, EXCHANGE, LADDER, 0.12, seeds=[5]))
    assert contents(tmp_path).keys() == contents(whole[0]).keys()
    for name in contents(tmp_path):
        with np.load(tmp_path / name) as one, np.load(whole[0] / name) as other:
            kinds = [{key: (file[key].shape, file[key].dtype) for key in file} for file in (one, other)]
        assert kinds[0] == kinds[1]
    settings = [json.loads((folder / "run.json").read_text())["settings"] for folder in (tmp_path, whole[0])]
    assert [one.pop("engine") for one in settings] == ["batched float32", "openmm"]
    assert settings[0] == settings[1]
    with pytest.raises(ValueError, match="engine was batched float32 and is now openmm"):
        run(peptide, [tmp_path], [5])
