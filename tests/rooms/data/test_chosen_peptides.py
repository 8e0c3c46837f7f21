"""The peptides of a folder that are trained on: named in any way, and limits that leave some out are named."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from boltzray.data.catalogue import DataConfig, inspect_data, list_folder
from boltzray.molecules import Peptide
from boltzray.molecules.shards import write_shards


def write_folder(out: Path, *names: str) -> Path:
    peptides = [Peptide.from_sequence(name) for name in names]
    (out / "pdbs" / "train").mkdir(parents=True)
    for peptide in peptides:
        (out / "pdbs" / "train" / f"{peptide.sequence}.pdb").write_text(peptide.to_pdb())
    write_shards(out, {p.sequence: np.stack([p.positions] * 4) for p in peptides}, seed=0, frames_per_shard=100)
    return out


def test_caps_are_no_residues(tmp_path: Path) -> None:
    out = write_folder(tmp_path, "ACE-AAAA-NME", "AA")
    assert list_folder(DataConfig(), str(out)).chosen == ["AA", "ACE-AAAA-NME"]
    assert list_folder(DataConfig(max_residues=3), str(out)).chosen == ["AA"]
    assert list_folder(DataConfig(sequences=("Ac-Ala-Ala-Ala-Ala-NHMe",)), str(out)).chosen == ["ACE-AAAA-NME"]
    (tmp_path / "some.fasta").write_text(">x\nAA\n")
    assert list_folder(DataConfig(sequences=(str(tmp_path / "some.fasta"), "aa")), str(out)).chosen == ["AA"]
    with pytest.raises(ValueError, match=r"data.sequences names AG, which has no PDB: there are AA, ACE-AAAA-NME"):
        list_folder(DataConfig(sequences=("Ala-Gly",)), str(out))


def test_other_splits_are_trained_on_only_by_name(tmp_path: Path) -> None:
    out = write_folder(tmp_path, "AA", "AG")
    (out / "pdbs" / "test").mkdir()
    (out / "pdbs" / "train" / "AG.pdb").rename(out / "pdbs" / "test" / "AG.pdb")
    assert list_folder(DataConfig(), str(out)).chosen == ["AA"]
    assert list_folder(DataConfig(sequences=("AG",)), str(out)).chosen == ["AG"]
    shutil.rmtree(out / "pdbs" / "train")
    assert list_folder(DataConfig(), str(out)).chosen == ["AG"], "a folder of one split has no other"


def test_a_limit_that_leaves_all_out_is_named(tmp_path: Path) -> None:
    out = write_folder(tmp_path, "AAAAAAAAA", "A" * 10)
    with pytest.raises(ValueError, match=r"^data.max_residues=8 leaves out every .* give data.max_residues=9 or more$"):
        list_folder(DataConfig(), str(out))
    assert list_folder(DataConfig(max_residues=9), str(out)).chosen == ["A" * 9]


def test_a_limit_that_leaves_some_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = write_folder(tmp_path, "AA", "AAAAAAAAA")
    list_folder(DataConfig(), str(out))
    assert "data.max_residues=8 leaves out AAAAAAAAA, give data.max_residues=9" in capsys.readouterr().out
    list_folder(DataConfig(max_residues=9), str(out))
    assert "leaves out" not in capsys.readouterr().out


@pytest.mark.usefixtures("ray_cluster")
def test_without_a_frame_the_limit_is_named(tmp_path: Path) -> None:
    """The folder knows a peptide within the limit, but its frames are of the other."""
    out = write_folder(tmp_path, "AAAAAAAAA")
    (out / "pdbs" / "train" / "AA.pdb").write_text(Peptide.from_sequence("AA").to_pdb())
    with pytest.raises(ValueError, match=r"data.max_residues=8 leaves out AAAAAAAAA, give data.max_residues=9"):
        inspect_data(DataConfig(), str(out))
    with pytest.raises(ValueError, match=r"data.sequences leaves out AAAAAAAAA"):
        inspect_data(DataConfig(sequences=("AA",)), str(out))
    shutil.rmtree(out)
