"""Capped peptides that are built: heavy atoms where the force field has them, all hydrogens, in every process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import openmm
import pytest

from boltzray.molecules import Peptide
from boltzray.molecules.forcefield import FORCEFIELDS, create_system
from boltzray.molecules.residues import LETTERS

NAMES = ["ACE-A-NME", "ACE-AAA-NME", "ACE-P-NME", "ACE-G", "P-NME", "ACE-K", *(f"ACE-{x}G-NME" for x in LETTERS)]


def heavy_angle(x: np.ndarray, i: int, j: int, k: int) -> float:
    u, v = x[i] - x[j], x[k] - x[j]
    return float(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))


@pytest.mark.parametrize("name", NAMES)
def test_heavy_atoms_lie_where_the_force_field_has_them(name: str) -> None:
    peptide = Peptide.from_sequence(name)
    atoms, x = list(peptide.topology.atoms()), peptide.positions
    system = create_system(peptide)  # keeps its forces alive
    forces = {type(force): force for force in system.getForces()}
    bonds, angles = forces[openmm.HarmonicBondForce], forces[openmm.HarmonicAngleForce]
    heavy = {atom.index for atom in atoms if atom.element.symbol != "H"}
    caps = {atom.index for atom in atoms if atom.residue.name in ("ACE", "NME")}
    for n in range(bonds.getNumBonds()):
        i, j, length, _ = bonds.getBondParameters(n)
        if {i, j} <= heavy and {i, j} & caps:
            assert np.linalg.norm(x[i] - x[j]) == pytest.approx(length._value, abs=0.003)
    for n in range(angles.getNumAngles()):
        i, j, k, angle, _ = angles.getAngleParameters(n)
        if {i, j, k} <= heavy and {i, j, k} & caps:
            assert np.degrees(heavy_angle(x, i, j, k) - angle._value) == pytest.approx(0, abs=6)
    closest = min(np.linalg.norm(x[i] - x[j]) for i in heavy & caps for j in heavy - caps)
    assert closest > 0.13  # the amide bond: nothing overlaps


@pytest.mark.parametrize("forcefield", FORCEFIELDS)
@pytest.mark.parametrize("name", ["ACE-A-NME", "ACE-P-NME", "ACE-A", "A-NME"])
def test_force_fields_take_them(name: str, forcefield: str) -> None:
    peptide = Peptide.from_pdb(Peptide.from_sequence(name).to_pdb())
    assert peptide.sequence == name
    system = create_system(peptide, forcefield)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(peptide.positions)
    openmm.LocalEnergyMinimizer.minimize(context)
    state = context.getState(energy=True, positions=True)
    before = peptide.positions
    after = state.getPositions(asNumpy=True)._value
    assert np.isfinite(state.getPotentialEnergy()._value)
    assert np.abs(after - before).max() < 0.35  # it relaxes, and does not fly apart


def test_atoms_are_those_of_an_acetylated_and_amidated_peptide() -> None:
    names = [f"{a.residue.name}:{a.name}" for a in Peptide.from_sequence("Ace-Ala-Nme").topology.atoms()]
    assert sorted(names) == sorted(
        [f"ACE:{a}" for a in ["CH3", "H1", "H2", "H3", "C", "O"]]
        + [f"ALA:{a}" for a in ["N", "H", "CA", "HA", "CB", "HB1", "HB2", "HB3", "C", "O"]]
        + [f"NME:{a}" for a in ["N", "H", "C", "H1", "H2", "H3"]]
    )
    half = [f"{a.residue.name}:{a.name}" for a in Peptide.from_sequence("ACE-A").topology.atoms()]
    assert "ALA:OXT" in half
    assert "ALA:H2" not in half
    assert {"ALA:H2", "ALA:H3"} <= {
        f"{a.residue.name}:{a.name}" for a in Peptide.from_sequence("A-NME").topology.atoms()
    }


def test_the_amides_are_trans_and_flat() -> None:
    peptide = Peptide.from_sequence("ACE-AG-NME")
    x = {(a.residue.index, a.name): peptide.positions[a.index] for a in peptide.topology.atoms()}

    def torsion(*keys: tuple[int, str]) -> float:
        a, b, c, d = (x[key] for key in keys)
        n1, n2 = np.cross(b - a, c - b), np.cross(c - b, d - c)
        return float(np.degrees(np.arccos(n1 @ n2 / np.linalg.norm(n1) / np.linalg.norm(n2))))

    assert torsion((0, "CH3"), (0, "C"), (1, "N"), (1, "CA")) == pytest.approx(180, abs=1)
    assert torsion((0, "O"), (0, "C"), (1, "N"), (1, "CA")) == pytest.approx(0, abs=1)
    assert torsion((2, "CA"), (2, "C"), (3, "N"), (3, "C")) == pytest.approx(180, abs=1)
    assert torsion((2, "O"), (2, "C"), (3, "N"), (3, "C")) == pytest.approx(0, abs=1)


def test_the_same_in_another_process(root: Path) -> None:
    code = (
        "from boltzray.molecules import Peptide; print(Peptide.from_sequence('ACE-PK-NME').positions.tobytes().hex())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == Peptide.from_sequence("ACE-PK-NME").positions.tobytes().hex(), done.stderr


@pytest.mark.filterwarnings("error")
def test_a_chain_that_ends_in_one_plane_is_built_without_a_word() -> None:
    """KRWN: Biopython's angle between a vector and none."""
    assert np.isfinite(Peptide.from_sequence("KRWN").positions).all()
