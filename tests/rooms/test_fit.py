"""A flow of one molecule, from its structure and its energy to a weighted ensemble; with dynamics, and from frames."""

from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app

import boltzray
from boltzray import models
from boltzray.data.prepare import PrepareJob, prepare
from boltzray.fit import FitJob, fit
from boltzray.models import Flow, FlowConfig
from boltzray.molecules.energy import OpenMMEnergy
from boltzray.molecules.molecule import Molecule
from boltzray.molecules.own_molecule import read_molecule
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.short_dynamics import short_dynamics as frames_of
from boltzray.molecules.storage import read_json
from boltzray.sampling.sample import SampleJob, sample

FILES = ("amber14-all.xml", "implicit/obc1.xml")
MODEL = {"channels": 16, "head_dim": 8, "layers_per_block": 1, "blocks": 1, "coordinates": "internal"}

pytestmark = pytest.mark.usefixtures("short_dynamics")


def _written(folder: Path, sequence: str = "ACE-A-NME") -> tuple[Path, Path]:
    peptide = Peptide.from_sequence(sequence)
    pdb, xml = folder / f"{sequence}.pdb", folder / f"{sequence}.xml"
    pdb.write_text(peptide.to_pdb())
    system = app.ForceField(*FILES).createSystem(peptide.topology, nonbondedMethod=app.NoCutoff)
    xml.write_text(openmm.XmlSerializer.serialize(system))
    return pdb, xml


@pytest.fixture(scope="module")
def fitted(ray_cluster: None, short_dynamics: None, module_home: Path) -> Path:
    pdb, xml = _written(module_home)
    return fit(_job(pdb, xml))


def _job(pdb: Path, xml: Path) -> FitJob:
    md = {"warmup_ps": 0.1, "interval_ps": 0.02, "frames_per_chunk": 40, "timestep_fs": 1.0}
    return FitJob(
        pdb=str(pdb),
        system=str(xml),
        name="capped alanine 2",
        out="fitted",
        simulate={"replicas": 8, "time_ns": 0.0008, "md": md, "compile": "never"},
        train={
            "model": MODEL,
            "train": {"steps": 8, "batch": 16, "energy_weight": 0.3, "precision": "float32"},
            "validation": {"every": 0},
            "workers": {"workers": 1, "threads": 1},
        },
        sample={"samples": 64, "sampler": "snis"},
    )


def test_all_that_it_leaves_belongs_together(fitted: Path) -> None:
    molecule = Peptide.from_pdb(fitted / "molecule.pdb")
    assert isinstance(molecule, Molecule)
    assert molecule.sequence == "capped-alanine-2"
    flow = models.load(fitted / "train" / "checkpoint")
    assert (flow.config.system, flow.config.system_atoms) == ("capped-alanine-2", 22)
    assert flow.geometry == molecule.geometry
    e = boltzray.load(fitted / "samples")
    assert e.forcefield == molecule.own_forcefield
    assert e.positions_nm.shape == (64, 22, 3)
    expected = OpenMMEnergy(molecule, 310.0, platform="Reference").evaluate(
        e.positions_nm.astype(float), gradient=False
    )
    alive = np.isfinite(e.energy_kT)
    assert alive.any()
    np.testing.assert_allclose(e.energy_kT[alive], expected.energy[alive], rtol=1e-5, atol=1e-3)
    assert (fitted / "samples" / "report.html").stat().st_size > 10_000
    found = boltzray.energy(e)
    np.testing.assert_allclose(found.energy[alive], e.energy_kT[alive], rtol=1e-4, atol=1e-3)  # of float32
    record = read_json(next((fitted / "data" / "md").glob("*/run.json")))
    assert record["settings"]["forcefield"] == molecule.own_forcefield


def test_a_second_time_it_is_done(fitted: Path, module_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (fitted / "samples" / "samples.npz").read_bytes()
    assert fit(_job(*_written(module_home))) == fitted
    said = capsys.readouterr().out
    assert "already trained" in said
    assert "already sampled" in said
    assert (fitted / "samples" / "samples.npz").read_bytes() == before


def test_other_files_are_refused(fitted: Path, module_home: Path) -> None:
    pdb, _ = _written(module_home)
    _, xml = _written(module_home, "AA")
    with pytest.raises(ValueError, match="fitted holds a run"):
        fit(_job(pdb, xml))


def test_the_flow_goes_with_its_molecule(fitted: Path, module_home: Path) -> None:
    pdb, _ = _written(module_home)
    job = SampleJob(pdb=str(pdb), checkpoint=str(fitted / "train" / "checkpoint"), sampler="snis", samples=16, out="no")
    with pytest.raises(ValueError, match="knows capped-alanine"):
        sample(job)


@pytest.mark.usefixtures("home")
def test_frames_of_your_own(tmp_path: Path) -> None:
    pdb, xml = _written(tmp_path)
    molecule = read_molecule(pdb, system=xml, name="mine")
    path = tmp_path / "molecule.pdb"
    path.write_text(molecule.to_pdb())
    system = openmm.XmlSerializer.deserialize(xml.read_text())
    frames = frames_of(system, molecule.positions, 310.0, 1, "test")
    np.savez(tmp_path / "frames.npz", positions=frames.astype(np.float32))
    out = prepare(PrepareJob(pdb=str(path), frames=str(tmp_path / "frames.npz"), hold_out=0.5, out="data"))
    assert isinstance(Peptide.from_pdb(out / "pdbs" / "train" / "mine.pdb"), Molecule)
    assert read_json(out / "sources.json")["forcefield"] == molecule.own_forcefield
    reference = next(out.glob("trajectories_subsampled/val/*/mine_subsampled.npz"))
    with np.load(reference) as arrays:
        np.testing.assert_allclose(arrays["positions"][0], frames[len(frames) // 2], atol=1e-6)
    shards = {path.name: path.read_bytes() for path in out.glob("webdatasets/**/*.tar")}
    assert shards
    prepare(
        PrepareJob(pdb=str(path), frames=str(tmp_path / "frames.npz"), hold_out=0.5, out="data")
    )  # as fit does again
    assert {path.name: path.read_bytes() for path in out.glob("webdatasets/**/*.tar")} == shards
    aa = boltzray.sample("AA", 16, actors={"in_process": True, "flow_replicas": 1})
    with pytest.raises(ValueError, match="22 particles, the structure 23 atoms"):
        aa.reweighted(str(path))
    other = Peptide.from_sequence("GG")
    np.savez(tmp_path / "other.npz", positions=np.repeat(other.positions[None].astype(np.float32), 30, 0))
    with pytest.raises(ValueError, match="17 atoms"):
        prepare(PrepareJob(pdb=str(path), frames=str(tmp_path / "other.npz"), out="other"))
    shuffled = frames[:, np.random.default_rng(0).permutation(22)].astype(np.float32)
    np.savez(tmp_path / "shuffled.npz", positions=shuffled)
    with pytest.raises(ValueError, match="another order"):
        prepare(PrepareJob(pdb=str(path), frames=str(tmp_path / "shuffled.npz"), out="shuffled"))


def test_bad_settings_are_one_line() -> None:
    with pytest.raises(ValueError, match="give pdb="):
        FitJob(pdb="")
    with pytest.raises(ValueError, match="both name the energy"):
        FitJob(pdb="a.pdb", system="a.xml", forcefield=("b.xml",))
    with pytest.raises(ValueError, match="positive, in kelvin"):
        FitJob(pdb="a.pdb", temperature_k=0.0)
    with pytest.raises(ValueError, match="leave token= out"):
        FlowConfig(**MODEL, system="x", system_atoms=5, token="coordinate")
    assert Flow(FlowConfig(**MODEL, system="x", system_atoms=5)).config.system_atoms == 5
