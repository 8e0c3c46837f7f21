"""Molecules that `benchmarks/any_molecule.py` builds: the right atoms, bonds and hands, in files that are read back."""

import io
from functools import cache

import numpy as np
import openmm
import pytest
from openmm import app

from benchmarks.any_molecule import (
    MOLECULES,
    Molecule,
    atom_of,
    bonds_of,
    check_dynamics,
    context_of,
    energy_of,
    handedness,
    longest_bond,
    nm,
    peptide_bonds,
    simulate,
    to_pdb,
    torsions_of,
)

# Atoms, bonds, hands. CHARMM36 takes ten seconds to be parsed: it is among the slow ones.
EXPECTED = {
    "ace_ala_nme_amber14": (22, 21, [1]),
    "cyclo_gggg": (28, 28, []),
    "disulphide_cc": (23, 23, [1, 1]),
    "disulphide_cac": (33, 33, [1, 1, 1]),
    "histidinium_aha": (41, 41, [1, 1, 1]),
    "d_alanine_aaa": (33, 32, [1, -1, 1]),
    "paracetamol": (20, 20, []),
}


@cache
def molecule(name: str) -> Molecule:
    return MOLECULES[name]()


def bonded(topology: app.Topology, *ends: tuple[int, str]) -> bool:
    pair = sorted(atom_of(topology, residue, name).index for residue, name in ends)
    return pair in bonds_of(topology).tolist()


@pytest.mark.parametrize("name", EXPECTED)
def test_atoms_bonds_and_hands(name: str) -> None:
    built = molecule(name)
    n_atoms, n_bonds, hands = EXPECTED[name]
    assert (built.topology.getNumAtoms(), len(bonds_of(built.topology))) == (n_atoms, n_bonds)
    assert handedness(built.topology, built.positions).tolist() == hands
    assert longest_bond(built.topology, built.positions) < 0.21  # S-S has 0.204


@pytest.mark.parametrize("name", EXPECTED)
def test_systems_are_free_of_constraints_and_at_their_minimum(name: str) -> None:
    built = molecule(name)
    system = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(built.system))
    assert system.getNumParticles() == built.topology.getNumAtoms()
    assert system.getNumConstraints() == 0
    assert not system.usesPeriodicBoundaryConditions()
    state = context_of(system, built.positions).getState(energy=True, forces=True)
    assert state.getPotentialEnergy()._value == pytest.approx(energy_of(built), abs=1e-6)
    assert np.abs(state.getForces(asNumpy=True)._value).max() < 5  # kJ/mol/nm


@pytest.mark.parametrize("name", EXPECTED)
def test_files_are_read_back_with_all_bonds(name: str) -> None:
    built = molecule(name)
    read = app.PDBFile(io.StringIO(to_pdb(built)))
    assert [(a.name, a.element, a.residue.name) for a in read.topology.atoms()] == [
        (a.name, a.element, a.residue.name) for a in built.topology.atoms()
    ]
    np.testing.assert_array_equal(bonds_of(read.topology), bonds_of(built.topology))
    np.testing.assert_allclose(nm(read.positions), built.positions, atol=6e-5)


def test_each_is_the_kind_that_its_name_says() -> None:
    assert bonded(molecule("cyclo_gggg").topology, (3, "C"), (0, "N"))
    assert bonded(molecule("disulphide_cc").topology, (0, "SG"), (1, "SG"))
    assert bonded(molecule("disulphide_cac").topology, (0, "SG"), (2, "SG"))
    histidine = {atom.name for atom in molecule("histidinium_aha").topology.atoms() if atom.residue.index == 1}
    assert {"HD1", "HE2"} <= histidine


@pytest.mark.parametrize("name", EXPECTED)
def test_charges_are_whole(name: str) -> None:
    """All are neutral, save the histidinium."""
    system = molecule(name).system
    nonbonded = next(force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
    charge = sum(nonbonded.getParticleParameters(i)[0]._value for i in range(system.getNumParticles()))
    assert charge == pytest.approx(float(name == "histidinium_aha"), abs=1e-5)


def test_amides_of_the_ring_are_flat_and_alternate() -> None:
    """Cis and trans in turn, as cyclic tetrapeptides have them."""
    ring = molecule("cyclo_gggg")
    omega = np.abs(torsions_of(ring.positions, peptide_bonds(ring.topology)))
    assert np.minimum(omega, 180 - omega).max() < 15
    assert sorted((omega > 90).tolist()) == [False, False, True, True]


def test_neighbouring_cysteines_are_bridged_without_strain() -> None:
    pair = molecule("disulphide_cc")
    assert abs(torsions_of(pair.positions, peptide_bonds(pair.topology))).max() < 15  # cis


def test_dynamics_keep_bonds_and_hands() -> None:
    built = molecule("d_alanine_aaa")
    frames = simulate(built, picoseconds=1.0, frames=20)
    assert "widest torsion" in check_dynamics(built, frames)
    with pytest.raises(ValueError, match="turned: True"):
        check_dynamics(built, frames * [1, 1, -1])
    torn = frames.copy()
    torn[-1, 0] += 1.0
    with pytest.raises(ValueError, match="longest bond 1"):
        check_dynamics(built, torn)


@pytest.mark.slow
def test_charmm_has_the_terms_of_its_protein_force_field() -> None:
    built = molecule("ace_ala_nme_charmm36")
    assert built.topology.getNumAtoms() == built.system.getNumParticles() == 22
    assert handedness(built.topology, built.positions).tolist() == [1]
    names = {force.getName() for force in built.system.getForces()}
    assert {"CMAPTorsionForce", "CustomTorsionForce", "LennardJones", "CustomGBForce"} <= names
