"""Peptides of D-residues: the L-peptide's draws and weights, mirrored."""

from pathlib import Path

import numpy as np
import pytest

import boltzray
from boltzray.molecules import Peptide
from boltzray.molecules.energy import OpenMMEnergy
from boltzray.molecules.mirror import D_NAMES, MirrorImage, read_mirror_image
from boltzray.molecules.observables import chirality_signs
from boltzray.sampling.peptide_source import PeptideSource


def _mirrored(peptide: Peptide, codes: bool) -> str:
    names = {usual: name for name, usual in D_NAMES.items()} if codes else {}
    lines = []
    for line in peptide.to_pdb(-peptide.positions).splitlines():
        if line.startswith(("ATOM", "HETATM")):
            line = f"{line[:17]}{names.get(line[17:20], line[17:20])}{line[20:]}"
        lines.append(line)
    return "\n".join([*lines, ""])


@pytest.mark.parametrize("codes", [False, True])
def test_a_peptide_of_d_residues_has_the_mirrored_ensemble(codes: bool, home: Path) -> None:
    left = Peptide.from_sequence("AL")
    (home / "left.pdb").write_text(left.to_pdb())
    (home / "right.pdb").write_text(_mirrored(left, codes))
    settings = {"n": 64, "sampler": "snis", "actors": {"in_process": True, "flow_replicas": 1}}
    expected = boltzray.sample(pdb="left.pdb", **settings)
    found = boltzray.sample(pdb="right.pdb", **settings)
    np.testing.assert_array_equal(found.positions_nm, -expected.positions_nm)
    np.testing.assert_array_equal(found.weights, expected.weights)
    np.testing.assert_array_equal(found.energy_kT, expected.energy_kT)
    assert isinstance(found.peptide, Peptide)
    assert found.peptide.sequence == "D-AL"
    assert {r.name for r in found.peptide.topology.residues()} == {"DAL", "DLE"}
    alive = found.weights > 0
    own = chirality_signs(found.peptide.positions[None], found.peptide.topology)
    assert (chirality_signs(found.positions_nm[alive], found.peptide.topology) == own).mean() > 0.9
    energy = OpenMMEnergy(found.peptide, 310.0).evaluate(found.positions_nm[alive].astype(float), gradient=False).energy
    np.testing.assert_allclose(energy, found.energy_kT[alive], atol=1.0)  # impropers go by the order of the file


def test_its_energy_is_that_of_the_force_field_asked_for(tmp_path: Path) -> None:
    path = _file(tmp_path, _mirrored(Peptide.from_sequence("AL"), codes=True))
    sources = [PeptideSource(pdb=str(path)).load(name) for name in ("amber14-obc1", "amber99sbildn-obc")]
    found = [OpenMMEnergy(p, 310.0).evaluate(p.positions[None]).energy[0] for p in sources]
    left = Peptide.from_sequence("AL")
    expected = [
        OpenMMEnergy(left, 310.0, forcefield=name).evaluate(left.positions[None]).energy[0]
        for name in ("amber14-obc1", "amber99sbildn-obc")
    ]
    np.testing.assert_allclose(found, expected, atol=1e-2)
    assert abs(found[0] - found[1]) > 1


def test_one_d_residue_is_no_mirror_image(tmp_path: Path) -> None:
    left = Peptide.from_sequence("AL")
    assert read_mirror_image(_file(tmp_path, left.to_pdb())) is None
    mixed = _mirrored(left, codes=False).splitlines()
    kept = left.to_pdb().splitlines()
    rows = [k if " ALA " in k else m for k, m in zip(kept, mixed, strict=True)]
    assert read_mirror_image(_file(tmp_path, "\n".join([*rows, ""]))) is None
    glycine = Peptide.from_sequence("GG")
    assert read_mirror_image(_file(tmp_path, _mirrored(glycine, codes=False))) is None
    found = read_mirror_image(_file(tmp_path, _mirrored(left, codes=True)))
    assert isinstance(found, MirrorImage)
    assert "mirrored" in found.notes[-1]


def _file(folder: Path, text: str) -> Path:
    path = folder / "peptide.pdb"
    path.write_text(text)
    return path
