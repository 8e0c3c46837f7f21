"""Validation on references in any order of atoms, and of other conditions."""

from pathlib import Path

import numpy as np
import pytest

from boltzray import models
from boltzray.molecules import Peptide
from boltzray.molecules.references import load_reference, save_reference
from boltzray.molecules.stereo import atom_map, atom_names
from boltzray.training.validation import HeldOut, ValidationConfig, validate

CONFIG = ValidationConfig(frames=20, drawn=1, draws=32)


def test_frames_are_mapped_by_name_and_energies_compared_with_their_like(
    tmp_path: Path, data: Path, checkpoint: Path
) -> None:
    pdb = data / "pdbs" / "test" / "AA.pdb"
    public = data / "trajectories_subsampled" / "test" / "2AA" / "AA_subsampled.npz"
    aa, other = Peptide.from_pdb(pdb), Peptide.from_pdb(data / "cases" / "atom_order_reference" / "AA_order.pdb")
    frames = load_reference(public).positions_nm[:, atom_map(aa, other)]
    save_reference(tmp_path / "other.npz", frames, None, atom_names(other))
    save_reference(tmp_path / "hot.npz", frames, None, atom_names(other), temperature_k=500.0)
    found = [
        validate(models.load(checkpoint), [HeldOut("AA", str(pdb), str(path))], CONFIG, 310.0)
        for path in (public, tmp_path / "other.npz", tmp_path / "hot.npz")
    ]
    assert found[0] == pytest.approx(found[1])
    assert "val_energy_w2_AA" in found[0]
    assert "val_energy_w2_AA" not in found[2]
    assert np.isfinite(found[2]["val_nll"])


def test_a_weighted_reference_counts_by_weight(tmp_path: Path, data: Path, checkpoint: Path) -> None:
    """As its frames repeated by weight: all that have one, in order of time."""
    pdb = data / "pdbs" / "test" / "AA.pdb"
    aa = Peptide.from_pdb(pdb)
    frames = load_reference(data / "trajectories_subsampled" / "test" / "2AA" / "AA_subsampled.npz").positions_nm[:30]
    times = np.arange(30) % 3  # 30 in all
    with np.errstate(divide="ignore"):
        save_reference(tmp_path / "weighted.npz", frames, None, atom_names(aa), log_weights=np.log(times))
    save_reference(tmp_path / "repeated.npz", np.repeat(frames, times, axis=0), None, atom_names(aa))
    save_reference(tmp_path / "plain.npz", frames, None, atom_names(aa))
    config = ValidationConfig(frames=30, drawn=1, draws=32)
    weighted, repeated, plain = (
        validate(models.load(checkpoint), [HeldOut("AA", str(pdb), str(tmp_path / f"{name}.npz"))], config, 310.0)
        for name in ("weighted", "repeated", "plain")
    )
    assert weighted == pytest.approx(repeated, rel=1e-6)
    for name in ("val_nll", "val_energy_w2_AA"):
        assert weighted[name] != pytest.approx(plain[name], rel=1e-6), name
