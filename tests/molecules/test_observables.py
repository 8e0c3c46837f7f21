"""Angles, TICA, chirality and sanity on real MD."""

from pathlib import Path

import numpy as np
import pytest
from openmm.app import PDBFile, Topology

from boltzray.molecules.observables import (
    bond_outliers,
    chiral_centres,
    chirality_signs,
    clashes,
    dihedrals,
    fit_tica,
    project,
    tica_features,
    unmirror,
)

ROOT = Path(__file__).parents[1]
LENGTHS = {"AA": 2, "DG": 2, "ARIP": 4}


def _load(sequence: str) -> tuple[dict[str, np.ndarray], Topology]:
    name = f"trajectories_subsampled/test/{LENGTHS[sequence]}AA/{sequence}_subsampled.npz"
    topology = PDBFile(str(ROOT / "data" / "pdbs" / "test" / f"{sequence}.pdb")).topology
    return dict(np.load(ROOT / "data" / name)), topology


def test_golden_features() -> None:
    golden, (_, topology) = np.load(ROOT / "golden" / "metrics.npz"), _load("AA")
    features = tica_features(golden["reference"], topology)
    assert features == pytest.approx(golden["tica_features_of_reference"], abs=1e-6)


@pytest.mark.parametrize("sequence", ["AA", "DG"])
def test_tica_is_that_of_the_files(sequence: str) -> None:
    data, topology = _load(sequence)
    tica = fit_tica(data["positions"], topology)
    assert tica.mean == pytest.approx(data["tica_mean"], abs=1e-6)
    expected = (tica_features(data["positions"], topology) - data["tica_mean"]) @ data["tica_projection"][:, :2]
    assert project(tica, data["positions"], topology) == pytest.approx(expected, abs=1e-4)


def test_golden_tica() -> None:
    golden, (data, topology) = np.load(ROOT / "golden" / "metrics.npz"), _load("AA")
    tica = fit_tica(data["positions"], topology)
    assert tica.mean == pytest.approx(golden["tica_mean"], abs=1e-6)
    assert tica.projection == pytest.approx(golden["tica_projection"], abs=1e-3)


def test_shapes_and_bad_shapes() -> None:
    data, topology = _load("ARIP")
    assert [a.shape for a in dihedrals(data["positions"], topology)] == [(419, 3)] * 3
    with pytest.raises(ValueError, match=r"give \(T, 70, 3\)"):
        dihedrals(data["positions"][:, :69], topology)
    with pytest.raises(ValueError, match="simulate longer"):
        fit_tica(data["positions"][:150], topology)


def test_angles_do_not_see_rotations_and_change_sign_in_the_mirror() -> None:
    data, topology = _load("ARIP")
    x = data["positions"][:20].astype(np.float64)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    for plain, turned, mirrored in zip(
        dihedrals(x, topology), dihedrals(x @ rotation + 1, topology), dihedrals(-x, topology), strict=True
    ):
        assert np.exp(1j * turned) == pytest.approx(np.exp(1j * plain), abs=1e-4)
        assert np.exp(1j * mirrored) == pytest.approx(np.exp(-1j * plain), abs=1e-4)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("test/ARIP", ["ALA CA", "ARG CA", "ILE CA", "ILE CB", "PRO CA"]),
        ("train/YT", ["TYR CA", "THR CA", "THR CB"]),
        ("train/NV", ["ASN CA", "VAL CA"]),
        ("train/GP", ["PRO CA"]),
        ("val/AL", ["ALA CA", "LEU CA"]),
    ],
)
def test_chiral_centres(file: str, expected: list[str]) -> None:
    topology = PDBFile(str(ROOT / "data" / "pdbs" / f"{file}.pdb")).topology
    atoms = list(topology.atoms())
    assert [f"{atoms[i].residue.name} {atoms[i].name}" for i, *_ in chiral_centres(topology)] == expected


def test_unmirror_tells_a_mirrored_frame_from_a_wrong_centre() -> None:
    data, topology = _load("ARIP")
    x = data["positions"][:3].copy()
    reference = chirality_signs(x, topology)[0]
    x[1] *= -1
    _, first, second, _ = chiral_centres(topology)[3]  # CB of ILE: exchange two of its arms
    x[2, [first, second]] = x[2, [second, first]]
    assert chirality_signs(x, topology)[2, 3] != reference[3]
    back, mirrored, correct = unmirror(x, topology, reference)
    assert mirrored.tolist() == [False, True, False]
    assert correct.tolist() == [True, True, False]
    assert np.array_equal(back[1], data["positions"][1])


@pytest.mark.parametrize("sequence", list(LENGTHS))
def test_sanity_of_real_frames_and_of_spoiled_ones(sequence: str) -> None:
    data, topology = _load(sequence)
    x = data["positions"][:300]
    assert clashes(x, topology).max() == 0
    assert bond_outliers(x, topology, x).mean() < 0.05
    noisy = x + np.random.default_rng(0).normal(scale=0.05, size=x.shape)
    assert bond_outliers(noisy, topology, x).min() > 0
    collapsed = x.copy()
    collapsed[0] *= 0.3
    assert clashes(collapsed, topology)[0] > 0
