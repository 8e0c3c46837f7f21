"""Torsions of any molecule: which there are, and that their densities are those of the frames."""

from dataclasses import replace

import numpy as np
from openmm import XmlSerializer

from boltzray.molecules.bond_torsions import heavy_torsions
from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.forcefield import create_system
from boltzray.molecules.peptide import Peptide
from boltzray.report.contents import Report
from boltzray.report.figures_torsions import BINS, torsions


def test_each_bond_between_heavy_atoms_that_have_others() -> None:
    peptide = Peptide.from_sequence("ACE-A-NME")
    names = [atom.name for atom in peptide.topology.atoms()]
    found = {tuple(names[i] for i in row[1:3]) for _, row in heavy_torsions(peptide.topology)}
    assert found == {("C", "N"), ("N", "CA"), ("CA", "C")}  # ω twice, φ, ψ
    assert len(heavy_torsions(peptide.topology)) == 4


def test_what_is_stiff_is_left_out_and_densities_are_of_the_weights() -> None:
    peptide = Peptide.from_sequence("ACE-A-NME")
    own = replace(peptide, system_xml=XmlSerializer.serialize(create_system(peptide)))
    x = np.repeat(peptide.positions[None], 40, 0).astype(np.float32)
    atoms = list(peptide.topology.atoms())
    axis = (
        next(a.index for a in atoms if a.name == "CA"),
        next(a.index for a in atoms if a.name == "C" and a.residue.index == 1),
    )
    behind = [a.index for a in atoms if a.residue.index == 2 or (a.residue.index == 1 and a.name == "O")]
    for k, frame in enumerate(x):  # ψ goes once around
        frame[behind] = _turned(frame[behind], frame[axis[0]], frame[axis[1]], 2 * np.pi * (k + 0.5) / len(x))
    made = Ensemble(
        name="SNIS", chunks=[x], log_weights=np.log(np.arange(1.0, 41.0)), energy_kT=np.zeros(40), diagnostics={}
    )
    (picture,) = torsions(Report(peptide=own, ensembles=[made]))
    shown = [axis for axis in picture.figure.axes if axis.patches]
    assert [axis.get_title() for axis in shown] == ["N-CA-C-O (2)"]
    heights = shown[0].patches[0].get_data().values
    assert len(heights) == BINS
    assert heights.sum() == np.float64(1.0).item() or abs(heights.sum() - 1) < 1e-9
    assert (heights > 0).sum() == 40  # a frame a bin, for they are 9° apart and bins have 5°
    assert abs(heights.max() / heights[heights > 0].min() - 40) < 1e-6
    assert "3 others" in picture.caption
    assert not list(torsions(Report(peptide=peptide, ensembles=[made])))  # it has φ and ψ by name


def _turned(x: np.ndarray, start: np.ndarray, end: np.ndarray, angle: float) -> np.ndarray:
    """Positions rotated about the axis from `start` to `end` (Rodrigues)."""
    u = (end - start) / np.linalg.norm(end - start)
    v = x - end
    turned = v * np.cos(angle) + np.cross(u, v) * np.sin(angle) + np.outer(v @ u, u) * (1 - np.cos(angle))
    return turned + end
