"""Trajectory files: what each format keeps, and folders whose names mdtraj cannot take."""

import shutil
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from boltzray.molecules import OpenMMEnergy, Peptide
from boltzray.molecules.references import load_reference
from boltzray.molecules.trajectory_file import FORMATS, TrajectoryFormat, ascii_folder, save_trajectory

ERRORS = {"xtc": (5.1e-4, 8.0), "dcd": (2e-7, 1e-3), "trr": (0.0, 0.0)}  # of positions / nm, of energies / kT


@pytest.fixture(scope="module")
def peptide(data: Path) -> Peptide:
    return Peptide.from_pdb(data / "pdbs" / "test" / "AA.pdb")


@pytest.fixture(scope="module")
def frames(data: Path) -> np.ndarray:
    return load_reference(data / "trajectories_subsampled" / "test" / "2AA" / "AA_subsampled.npz").positions_nm[:50]


@pytest.mark.parametrize("folder", ["plain", "müller", "Ω folder?#%20 (1)"])
@pytest.mark.parametrize("kind", FORMATS)
def test_what_a_format_keeps_anywhere(
    tmp_path: Path, peptide: Peptide, frames: np.ndarray, kind: TrajectoryFormat, folder: str
) -> None:
    path = tmp_path / folder / f"añadido.{kind}"
    path.parent.mkdir()
    save_trajectory(path, frames, peptide.topology)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    readable = shutil.copy(path, tmp_path / f"frames.{kind}")
    found = mdtraj.load(str(readable), top=mdtraj.Topology.from_openmm(peptide.topology)).xyz
    of_positions, of_energies = ERRORS[kind]
    assert abs(found - frames).max() <= of_positions
    energy = OpenMMEnergy(peptide)
    error = energy.evaluate(found, gradient=False).energy - energy.evaluate(frames, gradient=False).energy
    assert abs(error).max() <= of_energies
    if kind == "xtc":
        assert abs(error).max() > 0.3  # which is why it is for looking


def test_temporary_folders_are_ascii_whatever_tmpdir_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ü"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with ascii_folder() as path:
        assert str(path).isascii()
        assert path.is_dir()
    with pytest.raises(ValueError, match=r"ends in \.xtc, \.trr, \.dcd"):
        save_trajectory(tmp_path / "x.pdb", np.zeros((1, 1, 3)), None)
