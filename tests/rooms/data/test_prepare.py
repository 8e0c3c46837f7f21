"""Columnar copies of tars: the same batches, the same bad data, and no shard that is written halfway."""

import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from job_processes import run_job

from boltzray import models
from boltzray.data.catalogue import DataConfig, inspect_data
from boltzray.data.collate import Collator
from boltzray.data.prepare import PrepareJob, prepare
from boltzray.data.stream import BatchServer, batches
from boltzray.data.windows import BatchPlan, StreamState
from boltzray.molecules import OpenMMEnergy
from boltzray.molecules.columns import COLUMNS, PREPARED, read_columns, write_columns
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.shards import shard_sizes
from boltzray.molecules.tars import read_shard
from boltzray.training.train_step import Learner, TrainConfig

PLAN = BatchPlan(batch=64, seed=3, shards_per_window=2, bucket_steps=2)
START = StreamState()
STEPS = 100


@pytest.fixture
def tars(data: Path, home: Path, ray_cluster: None) -> Path:
    """Sound tars, one cut in the middle of a member, one cut between two of them, and one that is no tar."""
    source = home / "tars"
    shutil.copytree(data, source)
    folder = source / "webdatasets" / "single_frames"
    whole = (folder / "0000.tar").read_bytes()
    size = 1024 * 3 * 20
    for name, content in {"0100": whole[: size + 700], "0101": b"no tar at all", "0102": whole[:size]}.items():
        (folder / f"{name}.tar").write_bytes(content)
    return source


def stream(folder: Path, steps: int) -> tuple[list[tuple[np.ndarray, np.ndarray]], set[str], str]:
    """Batches over more than an epoch, what was found bad, and the fingerprint of the data."""
    found = inspect_data(DataConfig(max_bad_share=0.9), str(folder))
    server = BatchServer(found, PLAN, 1, START, [])
    frames, problems = [], set(found.problems)
    for batch in islice(batches(server, 0, 0, PLAN, START), steps):
        assert not batch.failure
        frames += [(microbatch.peptide, microbatch.x) for microbatch in batch.microbatches]
        problems |= set(batch.problems)
    return frames, {str(problem).replace(".parquet:", ".tar:") for problem in problems}, found.fingerprint


def test_batches_and_bad_data_are_those_of_the_tars(tars: Path, home: Path) -> None:
    out = prepare(PrepareJob(source=str(tars), out="columns"))
    assert not list(out.rglob("*.tar"))
    frames = sum(pq.read_metadata(path).num_rows for path in (out / COLUMNS).glob("*.parquet"))
    one, bad, fingerprint = stream(tars, frames // PLAN.batch + 4)
    two, bad_too, fingerprint_too = stream(out, frames // PLAN.batch + 4)
    assert len(one) == len(two)
    for mine, its in zip(one, two, strict=True):
        assert np.array_equal(mine[0], its[0])
        assert np.array_equal(mine[1], its[1])
    assert bad == bad_too
    assert {line.split(":")[0] for line in bad} == {"0100.tar", "0101.tar", "0102.tar"}
    assert fingerprint == fingerprint_too, "a run may go on with either"
    named = (out / "bad_data.txt").read_text().splitlines()
    assert set(named) == {line for line in bad if "frames missing" not in line}
    table = pq.read_table(out / COLUMNS / "0000.parquet")
    first = read_shard(tars / "webdatasets" / "single_frames" / "0000.tar", catalogue_sizes(tars)).frames[0]
    assert table["sequence"][0].as_py() == first.sequence
    assert table["positions"][0].as_py() == first.positions.tobytes()


def catalogue_sizes(folder: Path) -> dict[str, int]:
    return {p.stem: sum(line.startswith("ATOM") for line in p.open()) for p in folder.glob("pdbs/*/*.pdb")}


def test_a_stopped_preparation_goes_on(tars: Path, home: Path) -> None:
    job = PrepareJob(source=str(tars), out="columns")
    out = prepare(job)
    kept, torn, missing = sorted((out / COLUMNS).glob("*.parquet"))[:3]
    before = {path: path.read_bytes() for path in (kept, torn, missing)}
    written = kept.stat().st_mtime_ns
    torn.write_bytes(before[torn][:1000])
    missing.unlink()
    with pytest.raises(ValueError, match="prepare it again"):
        shard_sizes(out)
    (out / PREPARED).unlink()
    with pytest.raises(ValueError, match=r"no \.tar in"):
        shard_sizes(out)
    prepare(job)
    assert kept.stat().st_mtime_ns == written
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(ValueError, match="prepared already"):
        prepare(PrepareJob(source=str(out), out="again"))
    with pytest.raises(ValueError, match="give another out="):
        prepare(PrepareJob(source="elsewhere", out="columns"))


def test_damaged_columns_are_named(data: Path, tmp_path: Path) -> None:
    sizes = catalogue_sizes(data)
    content = read_shard(data / "webdatasets" / "single_frames" / "0000.tar", sizes)
    path = tmp_path / "0000.parquet"
    write_columns(path, content, "0000.tar")
    whole = path.read_bytes()
    again = read_columns(path, sizes)
    assert [frame.key for frame in again.frames] == [frame.key for frame in content.frames]
    assert again.problems == []
    unknown = read_columns(path, {k: v for k, v in sizes.items() if k != content.frames[0].sequence})
    assert all(f"unknown sequence {content.frames[0].sequence}" in problem.reason for problem in unknown.problems)
    assert len(unknown.problems) + len(unknown.frames) == len(content.frames)
    rng = np.random.default_rng(0)
    for _ in range(60):
        mutated = bytearray(whole)
        for at in rng.integers(len(mutated), size=rng.integers(1, 20)):
            mutated[at] ^= int(rng.integers(1, 256))
        path.write_bytes(mutated[: rng.integers(1, len(mutated) + 1)])
        for problem in read_columns(path, sizes).problems:
            assert problem.shard == "0000.parquet"
            assert "\n" not in str(problem)


def write_frames(golden: Path, path: Path) -> Peptide:
    """A capped molecule, and 60 conformations of it in a file of the kind that its name says."""
    import mdtraj

    peptide = Peptide.from_pdb(golden / "ace_a_nme.pdb")
    noise = np.random.default_rng(0).normal(0, 0.002, (60, 22, 3))
    frames = (peptide.positions + noise).astype(np.float32)
    if path.suffix == ".npy":
        np.save(path, frames)
    elif path.suffix == ".npz":
        np.savez(path, positions=frames)
    else:
        topology = mdtraj.load_topology(str(golden / "ace_a_nme.pdb"))
        mdtraj.Trajectory(frames, topology).save_xtc(str(path))
    return peptide


@pytest.mark.parametrize("name", ["frames.npy", "frames.npz", "frames.xtc"])
def test_frames_of_a_capped_molecule_become_a_data_folder(
    golden: Path, home: Path, ray_cluster: None, name: str
) -> None:
    write_frames(golden, home / name)
    out = prepare(PrepareJob(pdb=str(golden / "ace_a_nme.pdb"), frames=name, out="capped"))
    found = inspect_data(DataConfig(sequences=("ACE-A-NME",), max_residues=10), str(out))
    assert (found.sequences, found.n_frames, found.problems) == (["ACE-A-NME"], 60, [])


def test_a_capped_molecule_is_trained_on(golden: Path, home: Path, ray_cluster: None) -> None:
    """From a PDB and a file of frames to a flow that knows this molecule."""
    peptide = write_frames(golden, home / "frames.npy")
    out = prepare(PrepareJob(pdb=str(golden / "ace_a_nme.pdb"), frames="frames.npy", out="capped"))
    found = inspect_data(DataConfig(sequences=("ACE-A-NME",), max_residues=10), str(out))
    config = models.FlowConfig(
        channels=16,
        head_dim=8,
        blocks=2,
        layers_per_block=1,
        adaptive=False,
        lookahead=False,
        orderings=(),
        system="ACE-A-NME",
        system_atoms=22,
        token="coordinate",
    )
    torch.manual_seed(0)
    flow = models.Flow(config, found.scale_nm)
    learner = Learner(
        flow, TrainConfig(steps=STEPS, batch=30, lr=3e-3, precision="float32"), device=torch.device("cpu")
    )
    collator = Collator(flow, {p.sequence: p for p in found.peptides})
    plan = BatchPlan(batch=30, seed=0)
    losses = [
        float(learner.train_step([collator.batch(microbatch) for microbatch in batch.microbatches])["loss"])
        for batch in islice(batches(BatchServer(found, plan, 1, START, []), 0, 0, plan, START), STEPS)
    ]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    assert losses[-1] < losses[0] - 0.2
    again = models.load(models.save(flow, home / "flow", {"step": 30}))
    x, log_q = again.sample(again.condition(peptide), 4, torch.Generator().manual_seed(0))
    assert x.shape == (4, 22, 3)
    assert log_q.isfinite().all()


def test_frames_that_do_not_fit_are_refused(golden: Path, home: Path) -> None:
    pdb = str(golden / "ace_a_nme.pdb")
    np.save(home / "wrong.npy", np.zeros((5, 23, 3), np.float32))
    (home / "junk.npy").write_bytes(b"junk")
    for frames, message in (("wrong.npy", "has 22 atoms"), ("junk.npy", "holds no conformations")):
        with pytest.raises(ValueError, match=message):
            prepare(PrepareJob(pdb=pdb, frames=frames, out="x"))
    with pytest.raises(ValueError, match="pdb= and frames="):
        PrepareJob(pdb=pdb, out="x")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_capped_molecule_from_frames_to_samples(golden: Path, home: Path) -> None:
    """The three commands of docs/training.md, with the force field that the single systems were simulated in."""
    pdb, name = golden / "ace_a_nme.pdb", "amber99sbildn-obc"
    peptide = Peptide.from_pdb(pdb)
    np.save(home / "frames.npy", peptide.positions + np.random.default_rng(0).normal(0, 0.002, (40, 22, 3)))
    small = ["model.channels=16", "model.head_dim=8", "model.blocks=2", "model.layers_per_block=1"]
    few = ["train.steps=4", "train.batch=8", "train.compile=false", "validation.every=0"]
    drawn = ["checkpoint=outputs/single_ace_a_nme/checkpoint", "sampler=snis", "samples=16", "out=s"]
    for job, arguments in {
        "prepare": [f"pdb={pdb}", "frames=frames.npy", "out=data/ace_a_nme"],
        "train": ["run=single_ace_a_nme", *small, *few],
        "sample": [f"pdb={pdb}", "temperature_k=300", f"forcefield={name}", *drawn],
    }.items():
        done = run_job(home, job, *arguments, "cluster.num_cpus=2")
        assert done.returncode == 0, done.stderr[-2000:]
    with np.load(home / "s" / "samples.npz") as arrays:
        expected = OpenMMEnergy(peptide, 300.0, forcefield=name).evaluate(arrays["positions_nm"].astype(np.float64))
        np.testing.assert_allclose(arrays["energy_kT"], expected.energy, rtol=1e-3)
