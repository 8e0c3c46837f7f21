"""What a sampling run leaves: shards that pandas, PyArrow and Ray Data read, metrics in MLflow, any temperature."""

import socket
from pathlib import Path

import mdtraj
import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from boltzray import models
from boltzray.molecules import OpenMMEnergy, Peptide
from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.trajectory_file import FORMATS
from boltzray.runtime.tracking import Tracker
from boltzray.samplers import SMCConfig, SMCStep, Stage, generator, log_mean_exp
from boltzray.sampling import sample_files as results
from boltzray.sampling.energy_actors import EnergyConfig
from boltzray.sampling.flow_actors import ActorsConfig
from boltzray.sampling.sample import SampleJob, sample
from boltzray.sampling.sample_files import add_trajectory, read_samples, rows, write_samples
from boltzray.sampling.smc_log import StepLog


@pytest.fixture(scope="module")
def peptide(data: Path) -> Peptide:
    return Peptide.from_pdb(data / "pdbs" / "test" / "AA.pdb")


def sample_set(n: int, chunk: int, name: str = "SMC") -> Ensemble:
    source = np.random.default_rng(0)
    x = source.standard_normal((n, 23, 3)).astype(np.float32)
    log_w = source.standard_normal(n)
    log_w[::7] = -np.inf
    return Ensemble(
        name=name,
        chunks=[x[low : low + chunk] for low in range(0, n, chunk)],
        log_weights=log_w,
        energy_kT=source.standard_normal(n),
        log_q=source.standard_normal(n),
        diagnostics={"ess": 0.5},
    )


@pytest.fixture
def written(tmp_path: Path, peptide: Peptide, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Ensemble]:
    """300 conformations in shards of 128 rows, made of chunks of 64."""
    monkeypatch.setattr(results, "SHARD_ROWS", 128)
    given = sample_set(300, 64)
    write_samples(tmp_path, peptide, [sample_set(100, 64, "SNIS"), given], seed=0)
    return tmp_path, given


def test_pyarrow_and_pandas_read_the_shards(written: tuple[Path, Ensemble]) -> None:
    import pandas as pd

    out, given = written
    shards = sorted((out / "samples").glob("*.parquet"))
    assert [pq.read_metadata(path).num_rows for path in shards] == [128, 128, 44]
    table = pq.read_table(out / "samples")
    assert np.array_equal(table["positions_nm"].combine_chunks().to_numpy_ndarray(), given.positions_nm)
    frame = pd.read_parquet(out / "samples")
    assert np.array_equal(np.stack(list(frame.positions_nm)).reshape(-1, 23, 3), given.positions_nm)
    assert np.array_equal(frame.log_weights, given.log_weights)
    assert list(frame.columns) == ["positions_nm", "log_weights", "energy_kT", "log_q"]


@pytest.mark.usefixtures("ray_cluster")
def test_ray_data_reads_the_shards(written: tuple[Path, Ensemble]) -> None:
    out, given = written
    batches = list(ray.data.read_parquet(str(out / "samples")).iter_batches(batch_size=None))
    order = np.argsort([batch["energy_kT"][0] for batch in batches])
    assert batches[0]["positions_nm"].shape[1:] == (23, 3)
    found = np.concatenate([batches[i]["positions_nm"] for i in order])
    keys = np.concatenate([batches[i]["energy_kT"] for i in order])
    assert np.array_equal(found[np.argsort(keys)], given.positions_nm[np.argsort(given.energy_kT)])


def test_the_npz_is_one_of_numpys(written: tuple[Path, Ensemble]) -> None:
    out, given = written
    with np.load(out / "samples.npz") as arrays:
        assert np.array_equal(arrays["positions_nm"], given.positions_nm)
        assert np.array_equal(arrays["log_weights"], given.log_weights)
        assert str(arrays["sampler"]) == "SMC"
    _, sets = read_samples(out)
    assert [s.name for s in sets] == ["SNIS", "SMC"]
    assert np.array_equal(sets[1].positions_nm, given.positions_nm)


def test_what_is_too_large_to_read_at_once_is_thinned(
    tmp_path: Path, peptide: Peptide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "NPZ_MAX_BYTES", 1000)
    monkeypatch.setattr(results, "READ_ROWS", 80)
    given = sample_set(2000, 256)
    write_samples(tmp_path, peptide, [given], seed=0)
    assert not (tmp_path / "samples.npz").exists()
    _, (found,) = read_samples(tmp_path)
    assert len(found.positions_nm) == 80
    where = [int(np.flatnonzero(given.energy_kT == energy)[0]) for energy in found.energy_kT]
    assert np.array_equal(found.positions_nm, given.positions_nm[where])

    def mean(s: Ensemble) -> float:
        weights = np.exp(s.log_weights - s.log_weights.max())
        return float(weights @ s.energy_kT / weights.sum())

    assert mean(found) == pytest.approx(mean(given), abs=0.3)


def test_the_trajectory_is_in_the_format_that_was_asked_for(
    tmp_path: Path, peptide: Peptide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one can be had of a finished run: the same frames, which TRR keeps to the last bit."""
    monkeypatch.setattr(results, "ENSEMBLE_FRAMES", 100)
    given = sample_set(300, 64)
    write_samples(tmp_path, peptide, [given], seed=3, trajectory="none")
    assert not list(tmp_path.glob("ensemble.*"))
    for name in ("trr", "xtc", "dcd", "none"):
        add_trajectory(tmp_path, 3, name)  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.glob("ensemble.*")) == ["ensemble.dcd", "ensemble.trr", "ensemble.xtc"]
    found = {k: mdtraj.load(str(tmp_path / f"ensemble.{k}"), top=str(tmp_path / "topology.pdb")).xyz for k in FORMATS}
    assert found["trr"].shape == (100, 23, 3)
    assert {frame.tobytes() for frame in found["trr"]} <= {frame.tobytes() for frame in given.positions_nm}
    np.testing.assert_allclose(found["dcd"], found["trr"], rtol=0, atol=5e-7)
    np.testing.assert_allclose(found["xtc"], found["trr"], rtol=0, atol=6e-4)


def test_rows_come_in_order_and_more_than_once() -> None:
    chunks = [np.arange(4), np.arange(4, 6), np.arange(6, 9)]
    assert rows(chunks, np.array([0, 0, 3, 5, 6, 8, 8])).tolist() == [0, 0, 3, 5, 6, 8, 8]


def step_record(step: int) -> SMCStep:
    return SMCStep(step, step / 150, 0.9, 0.95, False, 0.57, 1e-4, 100 - step // 2, 0, 64 * step, -1.0)


def test_steps_reach_mlflow_in_batches(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of steps, all of them by the end of the `with`, in a real store."""
    calls = []
    real = SqlAlchemyStore.log_batch
    monkeypatch.setattr(SqlAlchemyStore, "log_batch", lambda *a, **k: calls.append(k) or real(*a, **k))
    tracker = Tracker.open("sample", home, {})
    calls.clear()  # of the parameters
    with StepLog(tracker, "smc") as log:
        for step in range(1, 151):
            log.add(step_record(step), particles=64)
    assert 1 <= len(calls) <= 4
    assert tracker.history("smc_lam") == [(step, step / 150) for step in range(1, 151)]
    assert tracker.history("smc_n_roots")[-1] == (150, 25.0)
    for name in ("ess", "acceptance", "step_size", "log_z", "n_evaluations", "particles_per_s"):
        assert len(tracker.history(f"smc_{name}")) == 150
    assert len(tracker.history("smc_energies_per_s")) == 149
    assert tracker.latest()["smc_lam"] == 1.0
    with StepLog(tracker, "smc") as log:  # of a second run in the same process
        log.add(step_record(151), particles=64)
    assert len(tracker.history("smc_lam")) == 151


def test_a_store_that_is_down_does_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with StepLog(Tracker("0" * 32, nobody, tmp_path), "smc") as log:
        log.add(step_record(1), particles=64)
    (line,) = capsys.readouterr().out.splitlines()
    assert "the job goes on" in line
    assert "smc_lam" in (tmp_path / "mlflow_pending.jsonl").read_text()


@pytest.mark.usefixtures("ray_cluster")
def test_another_temperature(peptide: Peptide, data: Path, home: Path) -> None:
    """At 500 K: wider draws, energies in kT at 500 K, weights from the density that was drawn from."""
    torch.manual_seed(0)
    identity = models.Flow(models.FlowConfig(channels=16, head_dim=8, blocks=2, layers_per_block=1), scale_nm=0.17)
    job = SampleJob(
        sequence="AA",
        checkpoint=str(models.save(identity, home / "flow", {"step": 1, "temperature_k": 300.0})),
        out=str(home / "hot"),
        data_dir=str(data),
        samples=64,
        smc_particles=32,
        temperature_k=500.0,
        energy=EnergyConfig(engine="openmm"),
        actors=ActorsConfig(flow_replicas=1, energy_actors=1),
        smc=SMCConfig(schedule="linear", n_steps=3, block_size=64, step_size=1e-7),
    )
    peptide, (drawn, final) = read_samples(sample(job))
    ratio = 500.0 / 300.0
    noise = generator(0, Stage.PROPOSE).standard_normal((64, 23, 3), np.float32)
    noise = noise[:, np.argsort(peptide.iupac_order)]  # drawn in the standard order, written in that of the file
    np.testing.assert_allclose(drawn.positions_nm, 0.17 * ratio**0.5 * noise, rtol=1e-5, atol=1e-6)
    exact = -0.5 * np.square(noise).sum((1, 2)) - 1.5 * 23 * np.log(2 * np.pi * ratio)
    np.testing.assert_allclose(drawn.log_q, exact, atol=1e-3)
    energy = OpenMMEnergy(peptide, 500.0)
    for found in (drawn, final):
        again = energy.evaluate(found.positions_nm.astype(np.float64), gradient=False).energy
        np.testing.assert_allclose(found.energy_kT, again, rtol=1e-3)
    center = (drawn.positions_nm / 0.17).mean(1)
    log_p = -drawn.energy_kT - 0.5 * 23 * np.square(center).sum(1) / ratio
    assert drawn.diagnostics["log_z"] == pytest.approx(log_mean_exp(log_p - drawn.log_q), rel=1e-5)
