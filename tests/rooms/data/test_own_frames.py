"""Trajectories of one's own: checked when they come in, held out by time, and added without losing what is there."""

import json
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from boltzray.data.catalogue import DataConfig, folder_temperature, inspect_data
from boltzray.data.prepare import PrepareJob, prepare
from boltzray.molecules.energy import OpenMMEnergy
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.reference_record import read_record
from boltzray.molecules.references import find_pdb, find_reference, load_reference
from boltzray.molecules.runs import MDConfig
from boltzray.molecules.shards import FRAMES, read_manifest, shard_sizes, write_shards
from boltzray.molecules.stereo import atom_names
from boltzray.molecules.tars import read_shard
from boltzray.simulation.simulate import SimulateJob, simulate

SHORT = MDConfig(warmup_ps=0.1, interval_ps=0.05, frames_per_chunk=20)


@pytest.fixture
def own(data: Path, home: Path) -> Path:
    """Two molecules of somebody: a PDB each, and 200 frames in AA.npy and DG.npy."""
    for sequence in ("AA", "DG"):
        frames = load_reference(data / f"trajectories_subsampled/test/2AA/{sequence}_subsampled.npz").positions_nm[:200]
        np.save(home / f"{sequence}.npy", frames)
        peptide = Peptide.from_pdb(data / f"pdbs/test/{sequence}.pdb")
        (home / f"{sequence}.pdb").write_text(peptide.to_pdb(frames[0]))
    return home


def frames_of(folder: Path) -> dict[str, list[np.ndarray]]:
    """Frames in the shards by peptide, in order of their numbers."""
    sizes = {path.stem: Peptide.from_pdb(path).n_atoms for path in folder.glob("pdbs/*/*.pdb")}
    found: dict[str, list[tuple[str, np.ndarray]]] = {}
    for shard in shard_sizes(folder):
        content = read_shard(shard, sizes)
        assert content.problems == []
        for frame in content.frames:
            found.setdefault(frame.sequence, []).append((frame.key, frame.positions))
    keys = [key for frames in found.values() for key, _ in frames]
    assert len(set(keys)) == len(keys)
    return {sequence: [x for _, x in sorted(frames, key=lambda f: f[0])] for sequence, frames in found.items()}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_sound_frames_become_the_shards_that_they_always_became(own: Path) -> None:
    out = prepare(PrepareJob(pdb="AA.pdb", frames="AA.npy", out="data"))
    write_shards(own / "plain", {"AA": np.load(own / "AA.npy")}, seed=0, frames_per_shard=2000)
    assert content(out / FRAMES) == content(own / "plain" / FRAMES)
    before = content(out)
    prepare(PrepareJob(pdb="AA.pdb", frames="AA.npy", out="data"))
    assert content(out) == before


def test_a_second_molecule_and_a_second_trajectory_are_added(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    aa, dg = np.load(own / "AA.npy"), np.load(own / "DG.npy")
    np.save(own / "run2.npy", aa[100:] + np.float32(0.5))  # moved, so that they are others
    out = prepare(PrepareJob(pdb="AA.pdb", frames="AA.npy", out="data"))
    prepare(PrepareJob(pdb="DG.pdb", frames="DG.npy", out="data"))
    assert {k: len(v) for k, v in frames_of(out).items()} == {"AA": 200, "DG": 200}
    prepare(PrepareJob(pdb="AA.pdb", frames=("AA.npy", "run2.npy"), out="data"))
    found = frames_of(out)
    assert np.array_equal(found["AA"], np.concatenate([aa, aa[100:] + np.float32(0.5)]))
    assert np.array_equal(found["DG"], dg)
    assert "beside those of DG.npy" in capsys.readouterr().out
    first = read_shard(next(iter(shard_sizes(out))), {"AA": 23, "DG": 22}).frames[:60]
    assert {frame.sequence for frame in first} == {"AA", "DG"}  # shuffled over all


def test_the_same_frames_are_taken_once(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(own / "copy.npz", coords=np.load(own / "AA.npy"))
    out = prepare(PrepareJob(pdb="AA.pdb", frames=("AA.npy", "copy.npz", "AA.npy"), out="data"))
    assert len(frames_of(out)["AA"]) == 200
    assert "note: copy.npz, AA.npy: the same frames as AA.npy: taken once" in capsys.readouterr().out


def test_the_last_frames_of_each_file_are_held_out(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    aa = np.load(own / "AA.npy")
    for number, part in ((1, aa[:100]), (2, aa[100:])):
        np.save(own / f"run{number}.npy", part)
    job = PrepareJob(pdb="AA.pdb", frames="run*.npy", hold_out=0.2, temperature_k=305, out="data")
    out = prepare(job)
    path = find_reference(out, "AA")
    assert path == out / "trajectories_subsampled" / "val" / "2AA" / "AA_subsampled.npz"
    held = load_reference(path)
    assert np.array_equal(held.positions_nm, np.concatenate([aa[80:100], aa[180:]]))
    assert held.tica is not None
    assert held.atoms == tuple(atom_names(Peptide.from_pdb(own / "AA.pdb")))
    assert (held.temperature_k, held.forcefield) == (305, "amber14-obc1")
    record = read_record(path)
    assert record is not None
    assert record.is_of(path)
    assert (record.temperature_k, record.runs, record.frames) == (305, 2, 40)
    assert record.energy_evaluations is None
    assert np.array_equal(frames_of(out)["AA"], np.concatenate([aa[:80], aa[100:180]]))
    last = capsys.readouterr().out.splitlines()[-2:]
    assert last[0].startswith("160 frames of AA to train on and 40 held out from run1.npy, run2.npy: ")
    assert last[1] == "next: python jobs/train.py data.path=data"
    before = content(out)
    prepare(job)
    assert content(out) == before
    prepare(PrepareJob(pdb="AA.pdb", frames="run*.npy", out="data"))  # the same frames, none held out
    assert find_reference(out, "AA") is None
    assert not list(out.rglob("*_reference.json"))
    assert len(frames_of(out)["AA"]) == 200
    with pytest.raises(ValueError, match=r"hold_out=0.01 of the 100 frames of run1.npy is 1, and a reference needs 10"):
        prepare(PrepareJob(pdb="AA.pdb", frames="run*.npy", hold_out=0.01, out="data"))


def test_a_reference_of_frames_that_go_on_falling_says_so(own: Path) -> None:
    aa = np.load(own / "AA.npy")
    energy = OpenMMEnergy(Peptide.from_pdb(own / "AA.pdb"), 310.0).evaluate(aa.astype(np.float64), False).energy
    falling, level = aa[np.argsort(-energy)], np.random.default_rng(0).permutation(aa)
    for number in range(5):
        np.save(own / f"run{number}.npy", falling[number::5])
        np.save(own / f"level{number}.npy", level[number::5])
    reasons = {}
    for kind in ("run", "level"):
        out = prepare(PrepareJob(pdb="AA.pdb", frames=f"{kind}*.npy", hold_out=0.5, temperature_k=310, out=kind))
        found = find_reference(out, "AA")
        assert found
        record = read_record(found)
        assert record
        reasons[kind] = record.reasons
    assert reasons["run"][0].startswith("energies fall by ")
    assert not any("energies" in reason for reason in reasons["level"])


@pytest.mark.parametrize("first", ["simulate", "prepare"])
def test_simulated_and_prepared_frames_live_together(own: Path, ray_cluster: None, first: str) -> None:
    made = SimulateJob(sequences=("AA",), time_ns=0.001, replicas=3, hold_out=1, out="data", engine="openmm", md=SHORT)
    taken = PrepareJob(pdb="AA.pdb", frames="AA.npy", hold_out=0.1, out="data")
    for name in (first, "prepare" if first == "simulate" else "simulate", first):
        out = prepare(taken) if name == "prepare" else simulate(made)
    assert len(frames_of(out)["AA"]) == 2 * 20 + 180
    reference = find_reference(out, "AA")
    assert reference is not None
    assert len(load_reference(reference).positions_nm) == 20 + 20
    before = content(out / FRAMES) | {"reference": reference.read_bytes()}
    prepare(taken)
    simulate(made)
    assert content(out / FRAMES) | {"reference": reference.read_bytes()} == before
    found = inspect_data(DataConfig(), str(out))
    assert (found.sequences, found.n_frames, found.problems) == (["AA"], 220, [])


def test_frames_of_another_order_of_atoms_are_added_in_that_of_the_folder(own: Path) -> None:
    """A PDB with its own order, and the frames that belong to it, beside those of the order that the folder has."""
    peptide, aa = Peptide.from_pdb(own / "AA.pdb"), np.load(own / "AA.npy")
    order = np.array([0, 4, 1, 2, 3, 5, 8, 9, 10, 11, 6, 7, 12, 14, 13, 15, 18, 19, 20, 21, 16, 22, 17])
    lines = [line for line in peptide.to_pdb().splitlines() if line.startswith("ATOM")]
    (own / "other.pdb").write_text("\n".join([*(lines[i] for i in order), "END", ""]))
    np.save(own / "other.npy", aa[100:, order])
    np.save(own / "half.npy", aa[:100])
    out = prepare(PrepareJob(pdb="AA.pdb", frames="half.npy", out="data"))
    prepare(PrepareJob(pdb="other.pdb", frames="other.npy", out="data"))
    np.testing.assert_allclose(frames_of(out)["AA"], aa, atol=1e-6)
    assert find_pdb(out, "AA") == out / "pdbs" / "train" / "AA.pdb"


def test_a_file_that_names_its_atoms_is_mapped_by_name(own: Path) -> None:
    aa = np.load(own / "AA.npy")
    peptide = Peptide.from_pdb(own / "AA.pdb")
    order = [0, 4, 1, 2, 3, 5, 8, 9, 10, 11, 6, 7, 12, 14, 13, 15, 18, 19, 20, 21, 16, 22, 17]
    lines = [line for line in peptide.to_pdb().splitlines() if line.startswith("ATOM")]
    (own / "other.pdb").write_text("\n".join([*(lines[i] for i in order), "END", ""]))
    topology = mdtraj.load_topology(str(own / "other.pdb"), standard_names=False)
    mdtraj.Trajectory(aa[:, order], topology).save_pdb(str(own / "models.pdb"))
    out = prepare(PrepareJob(pdb="AA.pdb", frames="models.pdb", out="data"))
    np.testing.assert_allclose(frames_of(out)["AA"], aa, atol=1e-4)
    mdtraj.Trajectory(np.load(own / "DG.npy"), mdtraj.load_topology(str(own / "DG.pdb"))).save_pdb(str(own / "dg.pdb"))
    with pytest.raises(ValueError, match=r"dg.pdb holds 22 atoms, AA.pdb has 23 atoms"):
        prepare(PrepareJob(pdb="AA.pdb", frames="dg.pdb", out="data"))


def test_the_folder_says_what_it_is_of(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = prepare(PrepareJob(pdb="AA.pdb", frames="AA.npy", out="plain"))
    assert "taken to be of 310 K and amber14-obc1: temperature_k= and forcefield= say otherwise" in (
        capsys.readouterr().out
    )
    assert folder_temperature(str(out)) == 310
    out = prepare(PrepareJob(pdb="AA.pdb", frames="AA.npy", temperature_k=300, forcefield="charmm36", out="data"))
    assert "forcefield=charmm36 is recorded" in capsys.readouterr().out
    assert folder_temperature(str(out)) == 300
    assert json.loads((out / "sources.json").read_text())["forcefield"] == "charmm36"
    for differing in ({"temperature_k": 310}, {"forcefield": "amber14-obc1"}):
        with pytest.raises(ValueError, match=r"holds frames (at 300 K|in charmm36), not"):
            prepare(PrepareJob(pdb="DG.pdb", frames="DG.npy", out="data", **differing))
    prepare(PrepareJob(pdb="DG.pdb", frames="DG.npy", out="data"))  # the folder's own
    assert set(frames_of(out)) == {"AA", "DG"}


def test_nothing_is_written_when_one_of_the_files_is_refused(own: Path) -> None:
    np.save(own / "bad.npy", np.load(own / "AA.npy") * 3)
    with pytest.raises(ValueError, match=r"bad.npy: all bonds are 3"):
        prepare(PrepareJob(pdb="AA.pdb", frames=("AA.npy", "bad.npy"), out="new"))
    assert not (own / "new").exists()
    out = prepare(PrepareJob(pdb="AA.pdb", frames="AA.npy", out="data"))
    before = content(out)
    with pytest.raises(ValueError, match=r"bad.npy: all bonds are 3"):
        prepare(PrepareJob(pdb="AA.pdb", frames="bad.npy", out="data"))
    assert content(out) == before


def test_shards_of_unknown_origin_are_not_replaced(own: Path) -> None:
    write_shards(own / "earlier", {"AA": np.load(own / "AA.npy")}, seed=0, frames_per_shard=50)
    with pytest.raises(ValueError, match="nothing says what they were made of: give another out="):
        prepare(PrepareJob(pdb="AA.pdb", frames="AA.npy", out="earlier"))
    assert len(read_manifest(own / "earlier")) == 4


def test_the_notes_for_a_trajectory_of_few_digits(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topology = mdtraj.load_topology(str(own / "AA.pdb"))
    mdtraj.Trajectory(np.load(own / "AA.npy"), topology, time=np.arange(200) * 0.2).save_xtc(str(own / "md.xtc"))
    prepare(PrepareJob(pdb="AA.pdb", frames="md.xtc", out="data"))
    out = capsys.readouterr().out
    assert "note: md.xtc: positions are rounded to 0.001 nm" in out
    assert "note: AA is in the published test set" in out
    assert "200 frames of AA to train on, one every 0.2 ps, and 0 held out from md.xtc" in out


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hold_out": 1.0}, "hold_out=1.0: give the fraction"),
        ({"temperature_k": -1.0}, "in kelvin"),
        ({"frames": ""}, "pdb= and frames="),
        ({"pdb": "", "frames": "", "source": "data", "hold_out": 0.2}, "are of pdb= and frames="),
    ],
)
def test_bad_settings_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrepareJob(**{"pdb": "AA.pdb", "frames": "AA.npy", "out": "data"} | wrong)  # type: ignore[arg-type]
