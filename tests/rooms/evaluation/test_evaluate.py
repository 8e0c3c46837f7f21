"""The reference of an evaluation: found, cleaned, given a TICA, and never silently another peptide's."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boltzray.evaluation.evaluate import evaluate_folder, evaluation_key
from boltzray.evaluation.reference import energies_of, load_reference_ensemble
from boltzray.molecules import OpenMMEnergy, Peptide
from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.metrics import compare, noise_floor
from boltzray.molecules.observables import fit_tica
from boltzray.molecules.reference_record import record_of, record_path
from boltzray.molecules.references import load_reference, save_reference, sequences_with_reference
from boltzray.molecules.stereo import atom_map, atom_names
from boltzray.molecules.subsample import weighted_subsample
from boltzray.molecules.torsion_states import occupied, states_of
from boltzray.report.contents import number
from boltzray.sampling.sample_files import write_samples

FRAMES = 300


@pytest.fixture
def aa(data: Path) -> Peptide:
    return Peptide.from_pdb(data / "pdbs" / "test" / "AA.pdb")


def write(folder: Path, positions: np.ndarray, **arrays: np.ndarray) -> Path:
    path = folder / "trajectories_subsampled" / "test" / "2AA" / "AA_subsampled.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, positions=positions, **arrays)
    return path


@pytest.fixture
def positions(data: Path) -> np.ndarray:
    path = data / "trajectories_subsampled" / "test" / "2AA" / "AA_subsampled.npz"
    return load_reference(path).positions_nm[:FRAMES].copy()


def test_energies_of_the_reference_are_those_of_openmm(home: Path, aa: Peptide, positions: np.ndarray) -> None:
    write(home, positions[:40])
    reference, facts, _ = load_reference_ensemble(aa, home, 310.0)
    assert reference is not None
    expected = OpenMMEnergy(aa).evaluate(positions[:40], gradient=False).energy
    np.testing.assert_allclose(reference.energy_kT, expected, rtol=1e-5)
    assert len(facts["reference_sha256"]) == 64


def test_without_a_tica_file_one_is_fitted_and_said_so(home: Path, aa: Peptide, positions: np.ndarray) -> None:
    write(home, positions)
    reference, _, notes = load_reference_ensemble(aa, home, 310.0)
    assert reference is not None
    assert reference.tica is not None
    assert reference.tica.projection.shape[1] == 2
    assert notes == ["The reference has no TICA file: it was fitted to the reference frames here (lag 30 frames)."]


def test_frames_that_are_not_finite_are_left_out_and_counted(home: Path, aa: Peptide, positions: np.ndarray) -> None:
    positions[::3] = np.nan
    write(home, positions)
    reference, facts, notes = load_reference_ensemble(aa, home, 310.0)
    assert reference is not None
    assert len(reference.positions_nm) == 2 * FRAMES // 3
    assert notes[0].startswith("100 frames of the reference are not finite")
    assert facts["reference"].endswith("200 frames of 300")


def test_another_number_of_atoms_is_not_compared(home: Path, aa: Peptide, positions: np.ndarray) -> None:
    write(home, positions[:, :-1])
    reference, _, notes = load_reference_ensemble(aa, home, 310.0)
    assert reference is None
    assert "22 atoms a frame, AA has 23" in notes[0]


def test_a_missing_reference_names_the_command_that_makes_it(home: Path, aa: Peptide) -> None:
    reference, _, notes = load_reference_ensemble(aa, home / "data", 310.0)
    assert reference is None
    command = "python jobs/simulate.py sequences=[AA] split=test"
    assert notes == [f"no reference MD of AA (there is no folder data): make it with {command} out=data"]
    notes = load_reference_ensemble(aa, home / "data", 350.0, "amber99sbildn-obc")[2]
    assert notes[0].endswith(f"{command} md.temperature_k=350 md.forcefield=amber99sbildn-obc out=data")


# --- what a reference is of ---------------------------------------------------------------------


def put(folder: Path, aa: Peptide, positions: np.ndarray, split: str = "test", **facts: Any) -> Path:
    path = folder / "trajectories_subsampled" / split / "2AA" / "AA_subsampled.npz"
    save_reference(path, positions, fit_tica(positions, aa.topology, lag=30), atom_names(aa), **facts)
    return path


def test_a_file_says_what_it_is_of(home: Path, aa: Peptide, positions: np.ndarray) -> None:
    path = put(home, aa, positions, temperature_k=350.0, forcefield="amber99sbildn-obc", engine="openmm", time_ns=0.3)
    stored = load_reference(path)
    assert stored.atoms[:2] == ("1 ALA N", "1 ALA H")
    assert (stored.forcefield, stored.temperature_k) == ("amber99sbildn-obc", 350.0)
    assert (stored.engine, stored.time_ns) == ("openmm", 0.3)
    with pytest.raises(ValueError, match="3 names for 23 atoms"):
        save_reference(path, positions, None, ["1 ALA N"] * 3)


def test_a_reference_has_the_states_of_its_record(home: Path, aa: Peptide, positions: np.ndarray) -> None:
    """Without one, those of its frames; a record of another trajectory is not believed, a damaged one is named."""
    path = put(home, aa, positions)
    reference, facts, _ = load_reference_ensemble(aa, home, 310.0)
    assert reference is not None
    assert reference.record is None
    assert [s.share for s in reference.states] == occupied(states_of(aa), positions).mean(axis=0).tolist()
    assert facts["reference_convergence"].endswith("(judged by its frames alone: it has no record)")
    lengths = (60,) * 5
    conditions: dict[str, Any] = {"forcefield": "amber14-obc1", "temperature_k": 310.0, "engine": "openmm"}
    record = record_of(path, aa, positions, **conditions, time_ns=(0.06,) * 5, run_lengths=lengths)
    record.write(path)
    reference, facts, notes = load_reference_ensemble(aa, home, 310.0)
    assert reference is not None
    assert repr(reference.states) == repr(list(record.states))
    assert facts["reference_convergence"].startswith("md, 5 independent runs; ")
    assert not notes
    put(home, aa, positions[::-1])
    reference, _, notes = load_reference_ensemble(aa, home, 310.0)
    assert reference is not None
    assert reference.record is None
    assert notes[0].endswith("AA_reference.json is of another trajectory, and is not believed.")
    record_path(path).write_text("{")
    with pytest.raises(ValueError, match=r"AA_reference\.json is no record"):
        load_reference_ensemble(aa, home, 310.0)


@pytest.mark.parametrize(
    ("kelvin", "forcefield", "compared"),
    [(350.0, "amber14-obc1", True), (310.0, "amber14-obc1", False), (350.0, "amber99sbildn-obc", False)],
)
def test_only_the_same_conditions_are_compared(
    home: Path, aa: Peptide, positions: np.ndarray, kelvin: float, forcefield: str, compared: bool
) -> None:
    put(home, aa, positions, temperature_k=350.0, engine="batched", time_ns=0.3)
    reference, facts, notes = load_reference_ensemble(aa, home, kelvin, forcefield)
    assert (reference is not None) == compared
    if reference is None:
        assert f"the samples are in {forcefield} at {kelvin:g} K, the reference" in notes[0]
        assert "is in amber14-obc1 at 350 K: they are not compared" in notes[0]
        assert "python jobs/simulate.py sequences=[AA] split=test" in notes[0]
        assert "\n" not in notes[0]
        assert facts["not_compared"].endswith("AA_subsampled.npz")
        return
    assert facts["reference_conditions"] == "amber14-obc1 at 350 K, 0.3 ns, batched"
    expected = OpenMMEnergy(aa, 350.0).evaluate(reference.positions_nm[:20], gradient=False).energy
    np.testing.assert_allclose(reference.energy_kT[:20], expected, rtol=1e-5)


def test_of_several_splits_the_comparable_one_is_taken(home: Path, aa: Peptide, positions: np.ndarray) -> None:
    put(home, aa, positions, "train", temperature_k=500.0)
    path = put(home, aa, positions, "test")
    reference, facts, _ = load_reference_ensemble(aa, home, 310.0)
    assert reference is not None
    assert facts["reference"].startswith(str(path.relative_to(home)))
    assert load_reference_ensemble(aa, home, 500.0)[0] is not None


def test_references_of_earlier_versions_are_of_their_runs(home: Path, aa: Peptide, positions: np.ndarray) -> None:
    """jobs/simulate.py did not write the temperature into the file, but into each run.json."""
    write(home, positions)
    run = home / "md" / "AA_500_1_100" / "run.json"
    run.parent.mkdir(parents=True)
    run.write_text(json.dumps({"settings": {"temperature_k": 500.0, "forcefield": "amber14-obc1"}, "versions": []}))
    reference, _, notes = load_reference_ensemble(aa, home, 310.0)
    assert reference is None
    assert "is in amber14-obc1 at 500 K" in notes[0]
    assert load_reference_ensemble(aa, home, 500.0)[0] is not None


@pytest.mark.parametrize("named", [True, False])
def test_another_order_of_atoms_gives_the_same_metrics(
    home: Path, data: Path, aa: Peptide, positions: np.ndarray, named: bool
) -> None:
    """pdb2gmx's order; the file names its atoms, or a public one has them in the order of its folder's PDB."""
    other = Peptide.from_pdb(data / "cases" / "atom_order_reference" / "AA_order.pdb")
    if named:
        put(home, aa, positions)
    else:
        tica = fit_tica(positions, aa.topology, lag=30)
        write(home, positions, tica_mean=tica.mean, tica_projection=tica.projection, tica_dim=np.int64(2))
        (home / "pdbs" / "test").mkdir(parents=True)
        (home / "pdbs" / "test" / "AA.pdb").write_text((data / "pdbs" / "test" / "AA.pdb").read_text())
    drawn = positions[::-2] + np.random.default_rng(0).normal(0, 0.002, (FRAMES // 2, 23, 3)).astype(np.float32)
    log_w, found = np.random.default_rng(1).standard_normal(len(drawn)), []
    for peptide, frames in ((aa, drawn), (other, drawn[:, atom_map(aa, other)])):
        reference, _, notes = load_reference_ensemble(peptide, home, 310.0)
        assert reference is not None, notes
        assert reference.tica is not None
        energy = energies_of(peptide, frames, 310.0).energy  # of the standard order, as samples have
        found.append(
            compare(
                reference.positions_nm, frames, reference.energy_kT, energy, peptide, reference.tica, log_w, intervals=2
            )
        )
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert found[0]["energy_w2"] < 20
    assert found[0]["bad_bonds"] == 0


def test_frames_that_do_not_fit_are_not_compared(home: Path, data: Path, aa: Peptide, positions: np.ndarray) -> None:
    """Without names, and without the PDB that has them, bond lengths tell; so they do Å."""
    other = Peptide.from_pdb(data / "cases" / "atom_order_reference" / "AA_order.pdb")
    write(home, positions)
    reference, _, notes = load_reference_ensemble(other, home, 310.0)
    assert reference is None
    assert "its atoms are in another order, or not in nm" in notes[0]
    assert "pdbs/test/AA.pdb" in notes[0]
    write(home, 10 * positions)
    assert load_reference_ensemble(aa, home, 310.0)[0] is None
    write(home, positions)
    assert load_reference_ensemble(aa, home, 310.0)[0] is not None


def test_what_evaluations_depend_on_is_content(home: Path, aa: Peptide, positions: np.ndarray) -> None:
    """Not time or size: the same content under a new date is the same, other content of the same size is not."""
    folder = home / "samples"
    folder.mkdir()
    path = write(home, positions)
    (folder / "sampling.json").write_text("{}")
    (folder / "samples.npz").write_bytes(b"one")

    def key() -> str:
        return evaluation_key(folder, home, "AA", 20, 0)

    before = key()
    os.utime(path, (1, 1))
    os.utime(folder / "samples.npz", (1, 1))
    assert key() == before
    (folder / "samples.npz").write_bytes(b"two")
    assert key() != before
    (folder / "samples.npz").write_bytes(b"one")
    assert key() == before
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert (other := key()) != before
    record_path(path).write_text("{}")
    assert key() not in (before, other)


def test_sequences_of_a_split(data: Path) -> None:
    assert sequences_with_reference(data, "test") == ["AA", "DG", "ARIP"]
    with pytest.raises(ValueError, match="choose one of"):
        sequences_with_reference(data, "tests")


# --- weights and runs ---------------------------------------------------------------------------

RUNS = (100, 50, 150)
TIMES = np.random.default_rng(0).integers(0, 4, FRAMES)


def logs(weights: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(weights)


def test_weights_and_runs_follow_the_frames_that_are_kept(
    home: Path, aa: Peptide, positions: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    positions[:60] = np.nan
    path = home / "trajectories_subsampled" / "test" / "2AA" / "AA_subsampled.npz"
    log_w = np.random.default_rng(1).normal(size=FRAMES)
    finite = positions[60:]
    tica = fit_tica(finite, aa.topology, lag=30)
    save_reference(path, positions, tica, atom_names(aa), log_weights=log_w, run_lengths=RUNS)
    reference, facts, _ = load_reference_ensemble(aa, home, 310.0)
    assert reference is not None
    expected = np.exp(log_w[60:]) / np.exp(log_w[60:]).sum()
    np.testing.assert_allclose(reference.weights, expected, rtol=1e-12)
    assert (reference.run_lengths, reference.halfway) == ((40, 50, 150), 90)
    effective = 1 / np.square(expected).sum()
    assert facts["reference"].endswith(f"240 frames of 300, effective {number(effective)}")
    monkeypatch.setattr("boltzray.evaluation.reference.MAX_FRAMES", 80)
    few = load_reference_ensemble(aa, home, 310.0)[0]
    assert few is not None
    rows, weights = weighted_subsample(expected, 80)
    np.testing.assert_array_equal(few.positions_nm[:, 0], finite[rows, 0])
    np.testing.assert_allclose(few.weights, weights / weights.sum(), rtol=1e-9)
    assert few.run_lengths == tuple(np.bincount(np.searchsorted([40, 90], rows, side="right")))


def test_tica_is_fitted_to_each_run(home: Path, aa: Peptide, positions: np.ndarray) -> None:
    write(home, positions, run_lengths=np.array(RUNS), log_weights=np.zeros(FRAMES))
    reference, _, notes = load_reference_ensemble(aa, home, 310.0)
    assert reference is not None
    assert reference.tica is not None
    runs = [positions[:100], positions[100:150], positions[150:]]
    expected = fit_tica(runs, aa.topology, lag=5)
    np.testing.assert_array_equal(reference.tica.projection, expected.projection)
    assert not np.allclose(expected.projection, fit_tica(positions, aa.topology, lag=5).projection)
    what = "it was fitted to each of the reference's 3 independent runs here without weights (lag 5 frames)."
    assert notes == [f"The reference has no TICA file: {what}"]


def test_a_report_of_a_weighted_reference_is_that_of_repeated_frames(
    home: Path, aa: Peptide, positions: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics, noise floor and the head of the page."""
    tica, drawn = fit_tica(positions, aa.topology, lag=30), positions[::6]
    energies, log_w = energies_of(aa, positions, 310.0).energy, np.random.default_rng(3).normal(size=len(drawn))
    save_reference(
        home / "trajectories_subsampled" / "test" / "2AA" / "AA_subsampled.npz",
        *(positions, tica, atom_names(aa)),
        log_weights=logs(TIMES),
        run_lengths=RUNS,
    )
    out = home / "samples"
    out.mkdir()
    sampled = Ensemble(name="SNIS", chunks=[drawn], log_weights=log_w, energy_kT=energies[::6], log_q=log_w)
    write_samples(out, aa, [sampled], seed=0)
    (out / "sample.json").write_text(json.dumps({"temperature_k": 310.0}))
    monkeypatch.setattr("boltzray.evaluation.evaluate.plot_report", lambda report: [])  # have tests of their own
    evaluate_folder(out, home, intervals=0, threads=1)

    metrics, page = json.loads((out / "metrics.json").read_text()), (out / "report.html").read_text(encoding="utf-8")
    frames, of_frames = np.repeat(positions, TIMES, axis=0), np.repeat(energies, TIMES)
    lengths = tuple(int(times.sum()) for times in np.split(TIMES, np.cumsum(RUNS)[:-1]))
    repeated = compare(frames, drawn, of_frames, energies[::6], aa, tica, log_w)
    assert metrics["SNIS"]["metrics"] == pytest.approx(repeated, abs=1e-5)
    assert metrics["noise_floor"] == pytest.approx(
        noise_floor(frames, of_frames, aa, tica, run_lengths=lengths), abs=1e-5
    )
    assert abs(
        compare(positions, drawn, energies, energies[::6], aa, tica, log_w)["torus_w2"] - repeated["torus_w2"]
    ) > (1e-3)
    effective = TIMES.sum() ** 2 / np.square(TIMES).sum()
    assert f"300 frames, effective {number(effective)}</p>" in page
    assert "first half of the reference MD, whole independent runs, with the second" in page
