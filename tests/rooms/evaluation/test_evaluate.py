"""The reference of an evaluation: found, cleaned, given a TICA, and never silently another peptide's."""

from pathlib import Path

import numpy as np
import pytest

from boltzray.evaluation.evaluate import load_reference_ensemble
from boltzray.molecules import OpenMMEnergy, Peptide
from boltzray.molecules.references import load_reference, sequences_with_reference

FRAMES = 300


@pytest.fixture
def aa(data: Path) -> Peptide:
    return Peptide.from_pdb(data / "pdbs" / "test" / "AA.pdb")


def write(folder: Path, positions: np.ndarray, **arrays: np.ndarray) -> Path:
    path = folder / "trajectories_subsampled" / "test" / "2AA" / "AA_subsampled.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, positions=positions, **arrays)
    return path


@pytest.fixture
def positions(data: Path) -> np.ndarray:
    path = data / "trajectories_subsampled" / "test" / "2AA" / "AA_subsampled.npz"
    return load_reference(path)[0][:FRAMES].copy()


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


def test_another_number_of_atoms_is_refused(home: Path, aa: Peptide, positions: np.ndarray) -> None:
    write(home, positions[:, :-1])
    with pytest.raises(ValueError, match="22 atoms a frame, AA has 23"):
        load_reference_ensemble(aa, home, 310.0)


def test_no_reference_and_another_temperature_are_notes(home: Path, aa: Peptide) -> None:
    assert load_reference_ensemble(aa, home, 310.0)[0] is None
    assert "make it with jobs/simulate.py" in load_reference_ensemble(aa, home, 310.0)[2][0]
    assert "at 500 K" in load_reference_ensemble(aa, home, 500.0)[2][0]


def test_sequences_of_a_split(data: Path) -> None:
    assert sequences_with_reference(data, "test") == ["AA", "DG", "ARIP"]
    with pytest.raises(ValueError, match="choose one of"):
        sequences_with_reference(data, "tests")
