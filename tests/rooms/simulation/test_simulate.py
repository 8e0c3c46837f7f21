"""The simulation job with either engine: what it writes, how it divides the work, and what it survives."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from boltzray.data.catalogue import DataConfig, list_folder
from boltzray.molecules import Peptide
from boltzray.molecules.batched.tiles import _FILL
from boltzray.molecules.reference_record import read_record
from boltzray.molecules.references import load_reference
from boltzray.molecules.runs import MDConfig, load_trajectory
from boltzray.runtime.cluster import Cluster
from boltzray.simulation.md_batches import LANES, MDReplica, batch_replicas, compiles
from boltzray.simulation.simulate import SimulateJob, simulate

MD = MDConfig(warmup_ps=0.05, interval_ps=0.01, frames_per_chunk=4)
JOB = SimulateJob(sequences=("GG", "GP"), time_ns=0.0004, replicas=3, hold_out=1, out="data", md=MD)


def contents(out: Path) -> dict[str, bytes]:
    paths = [*out.glob("md/*/chunks/*.npz"), *out.glob("webdatasets/*/*.tar")]
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(paths)}


def runs(*counts: int) -> list[MDReplica]:
    return [MDReplica("A" * (i + 1), k, "", 13 + 10 * i, "", k) for i, count in enumerate(counts) for k in range(count)]


@pytest.mark.parametrize(
    ("counts", "cpus", "gpus", "expected"),
    [
        ((64,), 2, 0, [32, 32]),
        ((64,), 1, 0, [64]),
        ((64,), 8, 0, [32, 32]),
        ((100,), 2, 0, [64, 36]),
        ((2, 2), 2, 0, [2, 2]),
        ((1000, 10), 2, 0, [512, 488, 10]),
        ((1000,), 16, 2, [500, 500]),
    ],
)
def test_replicas_are_divided_so_that_all_cores_work(
    counts: tuple[int, ...], cpus: int, gpus: int, expected: list[int]
) -> None:
    found = batch_replicas(runs(*counts), "batched", False, Cluster(cpus=cpus, gpus=gpus, local=True))
    assert [len(batch) for batch in found] == expected
    assert [run for batch in found for run in batch] == runs(*counts)
    assert all(len({run.sequence for run in batch}) == 1 for batch in found)
    alone = batch_replicas(runs(*counts), "openmm", False, Cluster(cpus=cpus, gpus=gpus, local=True))
    assert {len(batch) for batch in alone} == {1}


def test_peptides_are_mixed_by_padded_size() -> None:
    found = batch_replicas(runs(3, 3, 3, 40), "batched", True, Cluster(cpus=2, gpus=0, local=True))
    assert [[(run.n_atoms, run.replica) for run in batch] for batch in found[:3]] == [
        [(13, 0), (13, 1), (13, 2)],
        [(23, 0), (23, 1), (23, 2)],
        [(33, 0), (33, 1), (33, 2)],
    ]
    close = [replace(run, n_atoms=17 + run.n_atoms % 8) for run in runs(3, 3, 3)]
    assert [len(batch) for batch in batch_replicas(close, "batched", True, Cluster(cpus=2, gpus=0, local=True))] == [9]


def test_long_runs_are_compiled_and_short_ones_not() -> None:
    assert not compiles("auto", 23, MD, 10.0)
    assert compiles("auto", 23, MD, 1000.0)
    assert compiles("always", 23, MD, 0.1)
    assert not compiles("never", 177, MD, 1e6)
    assert LANES == _FILL, "the lanes that are computed whether there are replicas for them or not"


@pytest.mark.usefixtures("ray_cluster")
def test_either_engine_leaves_the_same_folders(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = replace(JOB, sequences=("GG",))
    one, two = simulate(job), simulate(replace(job, engine="openmm", out="openmm"))
    printed = capsys.readouterr().out
    assert "3 replicas × 0.0004 ns in 1 batches on 4 CPUs (batched dynamics); 3 CPUs stay idle" in printed
    assert "replicas=128 would take no longer" in printed
    assert "one a core, on 4 CPUs (OpenMM)" in printed
    files = [sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()) for out in (one, two)]
    assert files[0] == files[1]
    for out, engine in ((one, "batched float32"), (two, "openmm")):
        settings = json.loads((out / "md" / "GG_310_0.01_4_r2" / "run.json").read_text())["settings"]
        assert settings["engine"] == engine
        stored = load_reference(out / "trajectories_subsampled" / "val" / "2AA" / "GG_subsampled.npz")
        positions, tica = stored.positions_nm, stored.tica
        assert (stored.conditions, stored.engine) == ("amber14-obc1 at 310 K", engine.split()[0])
        assert stored.time_ns == pytest.approx(0.0004)
        assert stored.atoms[:2] == ("1 GLY N", "1 GLY H")
        np.testing.assert_array_equal(positions, load_trajectory(out / "md" / "GG_310_0.01_4_r2"))
        assert len(positions) == 40
        assert tica is not None
        record = read_record(out / "trajectories_subsampled" / "val" / "2AA" / "GG_subsampled.npz")
        assert record is not None
        assert record.is_of(out / "trajectories_subsampled" / "val" / "2AA" / "GG_subsampled.npz")
        assert (record.method, record.engine, record.runs, record.frames) == ("md", engine.split()[0], 1, 40)
        assert record.time_ns == pytest.approx((0.0004,))
        assert record.energy_evaluations == 40 * 10 + 50, "and those of the warm-up"
        assert not record.converged
        assert record.reasons[0] == "1 independent run, at least 4 are needed"
    with pytest.raises(ValueError, match="engine was batched float32 and is now openmm"):
        simulate(replace(job, engine="openmm"))


@pytest.mark.usefixtures("ray_cluster")
def test_a_capped_peptide_by_name_and_by_file(home: Path) -> None:
    """Shards, reference and PDB are those of the peptide that a name or a file says, whatever the file is called."""
    named = simulate(replace(JOB, sequences=("Ace-Ala-Nme",), out="named"))
    (home / "my files (1)").mkdir()
    copy = home / "my files (1)" / "AA.pdb"
    copy.write_text((named / "pdbs" / "train" / "ACE-A-NME.pdb").read_text())
    filed = simulate(SimulateJob(**vars(JOB) | {"sequences": None, "pdb": str(copy), "out": "filed"}))
    assert contents(filed) == contents(named)
    reference = load_reference(named / "trajectories_subsampled" / "val" / "1AA" / "ACE-A-NME_subsampled.npz")
    assert reference.positions_nm.shape == (40, 22, 3)
    assert reference.atoms[1] == "1 ACE CH3"
    assert reference.tica is not None
    assert list_folder(DataConfig(), str(named)).chosen == ["ACE-A-NME"]
    peptide = Peptide.from_pdb(copy)
    copy.write_text(peptide.to_pdb(peptide.positions + 0.1 * (np.arange(22) == 3)[:, None]))
    with pytest.raises(ValueError, match="has another structure of ACE-A-NME than pdb="):
        simulate(SimulateJob(**vars(JOB) | {"sequences": None, "pdb": str(copy), "out": "filed"}))


def test_a_structure_without_bonds_is_no_start(home: Path) -> None:
    """All at the origin, as a file without coordinates: OpenMM would end with a NaN."""
    peptide = Peptide.from_sequence("AA")
    (home / "zero.pdb").write_text(peptide.to_pdb(0 * peptide.positions))
    with pytest.raises(ValueError, match=r"zero\.pdb is no structure to start from: its bonds .* minimise it first"):
        simulate(SimulateJob(**vars(JOB) | {"sequences": None, "pdb": "zero.pdb", "out": "zero"}))


def test_peptides_are_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert replace(JOB, sequences=("AG", "ag", "Ala-Gly")).sequences == ("AG",)
    assert "note: given more than once, and taken once: AG" in capsys.readouterr().out
    assert SimulateJob().sequences == ("AA",)
    for wrong in ({"sequences": ()}, {"sequences": ("AA",), "pdb": "a.pdb"}):
        with pytest.raises(ValueError, match="pdb=FILE"):
            SimulateJob(**wrong)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def alone(module_home: Path, ray_cluster: None) -> Path:
    """The data folder of `JOB`, of which nothing was disturbed."""
    return simulate(JOB)


def test_mixed_peptides_leave_the_same_folders(alone: Path) -> None:
    mixed = simulate(replace(JOB, mixed=True, out="mixed"))
    files = [sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()) for out in (alone, mixed)]
    assert files[0] == files[1]
    for name, engine in (("GG_310_0.01_4", "batched float32 padded to 24"), ("GP_310_0.01_4", "padded to 24")):
        settings = json.loads((mixed / "md" / name / "run.json").read_text())["settings"]
        assert settings["engine"].endswith(engine)
        assert load_trajectory(mixed / "md" / name).shape == load_trajectory(alone / "md" / name).shape
    with pytest.raises(ValueError, match="engine was batched float32 and is now batched float32 padded to 24"):
        simulate(replace(JOB, mixed=True))


def test_a_killed_worker_changes_nothing_and_replicas_can_be_added(alone: Path, module_home: Path) -> None:
    undisturbed = contents(alone)
    assert len(undisturbed) == 2 * 3 * 10 + 1
    first = module_home / "disturbed" / "md" / "GP_310_0.01_4" / "chunks" / "chunk_1.npz"
    killed: list[int] = []

    def kill() -> None:
        while not first.exists():
            time.sleep(0.001)
        for process in psutil.Process().children(recursive=True):  # nobody else's
            if process.name().startswith("ray::run_batch"):
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    assert contents(simulate(replace(JOB, out="disturbed"))) == undisturbed
    thread.join()
    assert killed
    more = contents(simulate(replace(JOB, replicas=5, out="disturbed")))
    assert len(more) == 2 * 5 * 10 + 1
    chunks = {name: content for name, content in undisturbed.items() if name.endswith(".npz")}
    assert {name: more[name] for name in chunks} == chunks


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("warmup_ps", "told"), [(0.0, True), (1.0, False)])
def test_frames_that_are_still_hot_are_told(
    home: Path, capsys: pytest.CaptureFixture[str], warmup_ps: float, told: bool
) -> None:
    md = MDConfig(hot_ps=0.5, hot_temperature_k=1200.0, warmup_ps=warmup_ps, interval_ps=0.01, frames_per_chunk=20)
    simulate(SimulateJob(sequences=("AA",), time_ns=0.0004, replicas=16, hold_out=0, out="data", md=md))
    text = capsys.readouterr()
    assert (home / "data").is_dir()
    assert ("warning: bonds vibrate as at" in text.out + text.err) == told
    assert ("and md.temperature_k is 310 K" in text.out + text.err) == told
