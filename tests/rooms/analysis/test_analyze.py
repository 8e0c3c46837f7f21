"""Observables of folders and trajectories: weights count, the reference stands beside them, files say the same."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import openmm
import pytest
from reports import ENERGIES, FRAMES, PEPTIDE, ensemble

from boltzray.analysis.analyze import AnalyzeJob, analyze
from boltzray.analysis.free_energy import free_energy_rows
from boltzray.analysis.sources import SampleFolder
from boltzray.ensemble import with_peptide
from boltzray.library import energy
from boltzray.molecules.energy import OpenMMEnergy
from boltzray.molecules.forcefield import create_system
from boltzray.molecules.references import save_reference
from boltzray.molecules.stereo import atom_names
from boltzray.report.observable_rows import FrameSet, observable_rows, report_quantities
from boltzray.runtime.config import write_json
from boltzray.sampling.sample_files import write_samples

SHARE = "ψ(A1) α"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BOLTZRAY_HOME", str(tmp_path))
    return tmp_path


def tilt() -> np.ndarray:
    """Log-weights that double what is in α."""
    alpha = next(q for q in report_quantities(PEPTIDE) if q.name == SHARE)
    return np.log(1.0 + alpha.of(FRAMES))


def folder(out: Path, log_weights: np.ndarray, temperature_k: float = 310.0, log_z: float = 0.0) -> Path:
    out.mkdir(parents=True)
    write_json(out / "sample.json", {"temperature_k": temperature_k, "checkpoint": "boltzray://peptides-small"})
    made = ensemble(log_weights, log_q=np.zeros(len(FRAMES)), diagnostics={"log_z": log_z})
    write_samples(out, PEPTIDE, [made], seed=0, trajectory="none")
    return out


def table(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    with path.open() as file:
        return {(row["observable"], row["set"]): row for row in csv.DictReader(file)}


def test_weights_count_and_the_reference_stands_beside(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder(here / "AA", tilt())
    reference = here / "data" / "trajectories_subsampled" / "test" / "2AA" / "AA_subsampled.npz"
    save_reference(reference, FRAMES, None, atom_names(PEPTIDE), run_lengths=[250] * 4)
    page = analyze(AnalyzeJob(samples=(str(out),), observable=(f"{_function(here)}:first",), distances=("A1:N-A2:C",)))
    assert page == out / "observables.html"
    rows = table(out / "observables.csv")
    p = float(rows[SHARE, "reference MD"]["value"])
    assert float(rows[SHARE, "SNIS"]["value"]) == pytest.approx(2 * p / (1 + p))
    assert abs(float(rows[SHARE, "SNIS"]["z"])) > 1
    free = "F(ψ(A1) α) − F(β, PPII)"
    ours, theirs = (float(rows[free, name]["value"]) for name in ("SNIS", "reference MD"))
    assert ours - theirs == pytest.approx(-0.00831446 * 310 * np.log(2), abs=1e-6)
    assert float(rows["A1:N-A2:C", "SNIS"]["value"]) == float(rows["end to end, N to C", "SNIS"]["value"])
    x = FRAMES[:, 0, 0] - FRAMES[:, 1, 0]
    assert float(rows[f"{_function(here)}:first", "SNIS"]["value"]) == pytest.approx(
        np.average(x, weights=np.exp(tilt())), abs=1e-6
    )
    printed = capsys.readouterr().out
    assert SHARE in printed
    assert "data:text/csv" in page.read_text()


def _function(home: Path) -> Path:
    path = home / "my.py"
    path.write_text("def first(trajectory):\n    return trajectory.xyz[:, 0, 0] - trajectory.xyz[:, 1, 0]\n")
    return path


def test_trajectories_with_weights_are_the_ensemble_of_the_same(here: Path) -> None:
    (here / "top.pdb").write_text(PEPTIDE.to_pdb())
    np.save(here / "one.npy", FRAMES[:500])
    np.save(here / "two.npy", FRAMES[500:])
    np.savetxt(here / "w.txt", tilt())
    job = AnalyzeJob(pdb="top.pdb", frames=("one.npy", "two.npy"), weights="w.txt", out="own", basins="kmeans:3")
    analyze(job)
    rows = table(here / "own" / "observables.csv")
    assert sum(float(row["value"]) for row in rows.values() if row["group"] == "basins") == pytest.approx(1)
    assert {row["n_effective"] for row in rows.values()} == {"20"}  # blocks of two runs
    analyze(replace(job, basins="ramachandran"))
    p = np.average(np.exp(tilt()) > 1.5, weights=np.exp(tilt()))
    assert float(table(here / "own" / "observables.csv")[SHARE, "2 trajectories"]["value"]) == pytest.approx(p)
    np.savetxt(here / "w.txt", tilt()[1:])
    with pytest.raises(ValueError, match="expected \\(1000,\\)"):
        analyze(job)


def test_failed_draws_are_left_out(here: Path) -> None:
    positions, log_w = FRAMES.copy(), tilt()
    positions[3], log_w[3] = np.nan, -np.inf
    found = FrameSet(name="SNIS", positions_nm=positions, log_weights=log_w).sound(PEPTIDE)
    rows = observable_rows([found], report_quantities(PEPTIDE))
    assert len(found.positions_nm) == len(FRAMES) - 1
    assert all(np.isfinite(row.estimates[0].value) for row in rows)


def test_free_energies_of_two_temperatures(here: Path) -> None:
    """The draws of 310 K weighted to 320 K: reweighting, in which log Z is known, and the acceptance ratio agree."""
    to_warm = ENERGIES * (1 - 310 / 320)
    z = np.log(np.mean(np.exp(to_warm - to_warm.max()))) + to_warm.max()
    cold, warm = folder(here / "cold", np.zeros(len(FRAMES))), folder(here / "warm", to_warm, 320.0, z)
    energies = ensemble(to_warm, energy_kT=ENERGIES * 310 / 320)
    second = SampleFolder.read(warm)
    ours = ensemble(to_warm, energy_kT=energies.energy_kT, diagnostics={"log_z": z})
    by_z, by_bennett = free_energy_rows(SampleFolder.read(cold), replace(second, ensembles=(ours,)))
    ratio = 1.5 * np.log(320 / 310)  # of the centre of mass, which widens with the temperature
    assert by_z["difference_of_F_over_kT"] == pytest.approx(-z + ratio)
    assert by_bennett["difference_of_F_over_kT"] == pytest.approx(-z, abs=0.05)
    assert "difference_kJ_per_mol" not in by_z


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({}, "give one of samples="),
        ({"samples": ("a",), "sequence": "AA"}, "give one of samples="),
        ({"pdb": "a.pdb"}, "give one of samples="),
        ({"samples": ("a",), "weights": "w"}, "weights= are those of frames="),
        ({"free_energy": ("a",)}, "give two folders"),
        ({"sequence": "AA", "temperature_k": 0}, "temperature_k=0"),
    ],
)
def test_bad_input_is_one_line(job: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnalyzeJob(**job)  # type: ignore[arg-type]


def test_wrong_files_and_peptides_are_named(here: Path) -> None:
    out = folder(here / "AA", tilt())
    with pytest.raises(FileNotFoundError, match="check basins="):
        analyze(AnalyzeJob(samples=(str(out),), basins="nothing.yaml"))
    with pytest.raises(ValueError, match="FUNCTION"):
        analyze(AnalyzeJob(samples=(str(out),), observable=("f",)))
    with pytest.raises(ValueError, match="number of clusters"):
        analyze(AnalyzeJob(samples=(str(out),), basins="kmeans:x"))
    with pytest.raises(ValueError, match="no reference MD"):
        analyze(AnalyzeJob(sequence="AA"))
    with pytest.raises(FileNotFoundError, match="sample first"):
        analyze(AnalyzeJob(samples=("nowhere",)))


def test_weights_in_another_force_field(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A constant changes no weight, and is the free energy; a restraint of one atom pair changes weights as it says."""
    base = openmm.XmlSerializer.deserialize(_system_xml())
    constant = openmm.CustomBondForce("c")
    constant.addGlobalParameter("c", 10.0)  # kJ/mol
    constant.addBond(0, 1, [])
    base.addForce(constant)
    (here / "shifted.xml").write_text(openmm.XmlSerializer.serialize(base))
    kt = 0.00831446261815324 * 310
    e = with_peptide(ensemble(tilt()), PEPTIDE, 310.0, "amber14-obc1")
    e = replace(e, energy_kT=OpenMMEnergy(PEPTIDE, 310.0).evaluate(e.positions_nm.astype(float), gradient=False).energy)
    found = e.reweighted(str(here / "shifted.xml"))
    assert found.forcefield.startswith("system-")
    np.testing.assert_allclose(found.weights, e.weights, rtol=1e-3)
    assert found.diagnostics["delta_f_kT"] == pytest.approx(10 / kt, abs=1e-3)
    assert found.diagnostics["ess"] == pytest.approx(1 / np.square(e.weights).sum() / len(e), rel=1e-3)
    other = e.reweighted("amber99sbildn-obc")
    work = energy(PEPTIDE, e.positions_nm, forcefield="amber99sbildn-obc").energy - e.energy_kT
    np.testing.assert_allclose(other.log_weights - e.log_weights, -work, atol=1e-6)
    least = work.min()
    mean = np.average(np.exp(least - work), weights=e.weights)
    assert other.diagnostics["delta_f_kT"] == pytest.approx(least - np.log(mean))
    base.removeForce(base.getNumForces() - 1)
    pull = openmm.CustomBondForce("20000*(r-0.3)^2")
    pull.addBond(0, PEPTIDE.n_atoms - 1, [])
    base.addForce(pull)
    (here / "pulled.xml").write_text(openmm.XmlSerializer.serialize(base))
    with pytest.warns(UserWarning, match="too different"):
        e.reweighted(str(here / "pulled.xml"))
    out = folder(here / "AA", tilt())
    analyze(AnalyzeJob(samples=(str(out),), reweight=(str(here / "shifted.xml"),)))
    assert "SNIS → system-" in capsys.readouterr().out
    with pytest.raises(ValueError, match="reweight= is of samples="):
        AnalyzeJob(sequence="AA", reweight=("amber99sbildn-obc",))


def _system_xml() -> str:
    system = create_system(PEPTIDE)
    return str(openmm.XmlSerializer.serialize(system))
