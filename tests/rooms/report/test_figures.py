"""Figures: what goes into them, and which of them there are."""

import math
from pathlib import Path

import numpy as np
import pytest
from reports import FRAMES, PEPTIDE, STEPS, TRAINING, ensemble, report

from boltzray.molecules import Peptide
from boltzray.molecules.observables import chirality_signs, dihedrals
from boltzray.molecules.zmatrix import torsions
from boltzray.report.conformers import conformers
from boltzray.report.curves import Curve, Point
from boltzray.report.figures import plot_report
from boltzray.report.figures_structures import BINS, angle_pairs, free_energy, weight_fractions
from boltzray.report.page import save_figures

EDGES = np.linspace(-180, 180, BINS + 1)


def test_angle_pairs_follow_the_residues() -> None:
    phi, psi, _ = dihedrals(FRAMES[:5], PEPTIDE.topology)
    ((phi_name, psi_name, x, y),) = angle_pairs(phi, psi, "AA")
    assert (phi_name, psi_name) == ("φ(A2)", "ψ(A1)")
    np.testing.assert_array_equal(x, np.degrees(phi[:, 0]))
    np.testing.assert_array_equal(y, np.degrees(psi[:, 0]))
    three = np.arange(3.0)[None]
    pairs = angle_pairs(three, three, "ARIP")  # column j of φ belongs to residue j + 2, of ψ to j + 1
    assert [p[:2] for p in pairs] == [("φ(R2)", "ψ(R2)"), ("φ(I3)", "ψ(I3)")]
    assert [(p[2][0], p[3][0]) for p in pairs] == [(np.degrees(0), np.degrees(1)), (np.degrees(1), np.degrees(2))]


def test_free_energy_counts_weights() -> None:
    phi, psi, weights = np.array([-175.0, -175.0, 5.0]), np.array([-175.0, -175.0, 5.0]), np.array([1.0, 1.0, 1.0])
    surface = free_energy(weight_fractions(phi, psi, weights, (EDGES, EDGES)))
    assert surface[0, 0] == 0.0
    assert surface[BINS // 2, BINS // 2] == pytest.approx(math.log(2))
    assert np.isfinite(surface).sum() == 2


def test_every_figure_that_has_data(tmp_path: Path) -> None:
    point = Point(budget=1000, runs=2, energies=1e3, seconds=1.0, mean={"torus_w2": 0.5}, error={"torus_w2": 0.1})
    curve = Curve(method="SNIS", points=[point], floor={"torus_w2": 0.3})
    made = report(ensemble(), ensemble(name="SMC", steps=STEPS), training=TRAINING, curves=[curve])
    names = [picture.name for picture in plot_report(made)]
    assert names == [
        "conformations",
        "ramachandran_1",
        "tica",
        "tica_profile",
        "observables_basins",
        "energy",
        "weights",
        "growth",
        "path_smc",
        "budget_energies",
        "budget_seconds",
        "training",
    ]


def test_figures_as_png(tmp_path: Path) -> None:
    pictures = plot_report(report(ensemble(), training=TRAINING))
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "old.png").touch()
    paths = save_figures(tmp_path / "figures", pictures)
    assert sorted(paths) == sorted((tmp_path / "figures").iterdir())
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths)


def test_conformers_divide_the_weight_and_are_not_mirrored() -> None:
    frames = FRAMES.copy()
    frames[::2] *= -1
    found = conformers(ensemble(chunks=[frames]), PEPTIDE)
    assert sum(c.fraction for c in found) == pytest.approx(1.0)
    assert [c.fraction for c in found] == sorted((c.fraction for c in found), reverse=True)
    positions = np.array([c.positions_nm for c in found])
    assert (chirality_signs(positions, PEPTIDE.topology) == chirality_signs(FRAMES[1:2], PEPTIDE.topology)).all()


def test_a_conformation_without_weight_is_left_out() -> None:
    log_weights = np.full(len(FRAMES), -np.inf)
    log_weights[7] = 0.0
    (only,) = conformers(ensemble(log_weights), PEPTIDE)
    assert only.fraction == 1.0

    def pairs(x: np.ndarray) -> np.ndarray:
        return np.linalg.norm(x[:, None] - x[None], axis=-1)

    np.testing.assert_allclose(pairs(only.positions_nm), pairs(FRAMES[7]), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ACE-A-NME", [("φ(A1)", "ψ(A1)")]),
        ("ACE-AG-NME", [("φ(A1)", "ψ(A1)"), ("φ(G2)", "ψ(G2)")]),
        ("ACE-AG", [("φ(A1)", "ψ(A1)")]),
        ("AG-NME", [("φ(G2)", "ψ(G2)")]),
        ("ACE-A", []),
        ("A-NME", []),
    ],
)
def test_angles_of_capped_peptides(name: str, expected: list[tuple[str, str]]) -> None:
    peptide = Peptide.from_sequence(name)
    pairs = angle_pairs(*dihedrals(peptide.positions[None], peptide.topology)[:2], name)
    assert [pair[:2] for pair in pairs] == expected
    index = {(a.residue.index, a.name): a.index for a in peptide.topology.atoms()}
    first = name.startswith("ACE-")
    for phi_name, _, phi, psi in pairs:
        r = int(phi_name[-2]) - 1 + first
        for found, keys in (
            (phi, [(r - 1, "C"), (r, "N"), (r, "CA"), (r, "C")]),
            (psi, [(r, "N"), (r, "CA"), (r, "C"), (r + 1, "N")]),
        ):
            x = peptide.positions[[index[key] for key in keys]]
            z_matrix = np.array([[-1, -1, -1]] * 3 + [[2, 1, 0]])
            assert found[0] == pytest.approx(np.degrees(torsions(x, z_matrix)[3]), abs=0.1)
