"""Z-matrices, and the table of usual values against molecular dynamics."""

from pathlib import Path

import numpy as np
import pytest

from boltzray.molecules import Peptide
from boltzray.molecules.geometry import measure
from boltzray.molecules.references import load_reference
from boltzray.molecules.residues import LETTERS
from boltzray.molecules.stereo import atom_names
from boltzray.molecules.zmatrix import levels
from tests.naming import written

SIX = 6  # degrees of freedom of a rigid body


@pytest.mark.parametrize("sequence", ["AA", "PP", "ACDEFGHI", "KLMNPQRS", "TVWYPH"])
def test_every_atom_is_placed_once(sequence: str) -> None:
    peptide = Peptide.from_sequence(sequence)
    internal = peptide.internal()
    present = internal["z_matrix"] >= 0
    assert present.sum() == 3 * peptide.n_atoms - SIX
    assert (internal["level"][internal["z_matrix"]] < internal["level"][:, None])[present].all()
    bonded = {frozenset((a.index, b.index)) for a, b in peptide.topology.bonds()}
    for atom, (p, g, q) in enumerate(internal["z_matrix"]):
        assert p < 0 or frozenset((atom, p)) in bonded
        assert g < 0 or frozenset((p, g)) in bonded
        assert q < 0 or frozenset((g, q)) in bonded or frozenset((p, q)) in bonded


def test_rotatable_dihedrals_of_a_dipeptide() -> None:
    """Two methyl groups, the charged ends, and the backbone's ψ, ω, φ."""
    peptide = Peptide.from_sequence("AA")
    names = [f"{a.residue.index}{a.name}" for a in peptide.topology.atoms()]
    rotatable = [name for name, flag in zip(names, peptide.internal()["rotatable"], strict=True) if flag]
    assert sorted(rotatable) == ["0H", "0HB1", "1C", "1CA", "1HB1", "1N", "1O"]


def test_atoms_that_are_not_connected_are_refused() -> None:
    with pytest.raises(ValueError, match="connected"):
        levels(np.array([[-1, -1, -1], [2, -1, -1], [1, -1, -1]]))


def test_other_residues_have_no_usual_values() -> None:
    peptide = Peptide.from_sequence("AA")
    other = Peptide(
        sequence="A-MSE", positions=peptide.positions, topology=peptide.topology, encodings={}, orderings={}
    )
    with pytest.raises(ValueError, match="usual geometry is not known"):
        _ = other.internal()


@pytest.mark.parametrize("letter", LETTERS)
def test_usual_values_fit_the_extended_structure(letter: str) -> None:
    """All twenty residues at all places, against a structure that is built, not simulated: no atoms mixed up."""
    peptide = Peptide.from_sequence(letter * 3)
    table = measure(peptide, peptide.positions[None])
    names = [(atom.residue.index, atom.name) for atom in peptide.topology.atoms()]
    built = np.array([table[("first", "middle", "last")[r]][name][:3] for r, name in names])
    internal = peptide.internal()
    present = internal["z_matrix"] >= 0
    heavy = np.array([name[0] != "H" for _, name in names])  # hydrogens are built roughly
    stiff = present[:, 2] & (internal["rotatable"] == 0)
    off = np.abs(built - internal["mean"])
    turn = np.abs((off[:, 2] + np.pi) % (2 * np.pi) - np.pi)
    assert off[:, 0][present[:, 0]].max() < 0.03
    assert off[:, 1][present[:, 1] & heavy].max() < np.radians(30)
    assert turn[stiff & heavy].max() < np.radians(50)  # a proline's ring puckers
    assert turn[stiff].max() < np.radians(90)  # siblings are 240° or 180° apart


def test_usual_values_are_those_of_other_dynamics(data: Path) -> None:
    """Against OpenMM's trajectory of AA: means within 0.3, deviations within a third of the thermal ones."""
    peptide = Peptide.from_pdb(data / "pdbs" / "test" / "AA.pdb")
    positions = load_reference(data / "trajectories_subsampled/test/2AA/AA_subsampled.npz").positions_nm
    table = measure(peptide, positions[::10])
    names = [(atom.residue.index, atom.name) for atom in peptide.topology.atoms()]
    measured = np.array([table[("first", "last")[r]][name] for r, name in names])
    internal = peptide.internal()
    stiff = internal["z_matrix"] >= 0
    stiff[:, 2] &= internal["rotatable"] == 0
    mean, spread = measured[:, :3], measured[:, 3:]
    turn = (mean - internal["mean"] + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(turn / internal["scale"])[stiff].max() < 0.5
    assert np.abs(np.log(spread / internal["scale"]))[stiff].max() < np.log(4 / 3)


@pytest.mark.parametrize("sequence", ["AA", "PGW", "ACDEFGHI"])
def test_atoms_are_placed_after_what_places_them_in_an_order_of_names(sequence: str) -> None:
    peptide = Peptide.from_sequence(sequence)
    internal = peptide.internal()
    order = internal["placement"]
    place = np.argsort(order)
    before = np.where(internal["z_matrix"] >= 0, place[internal["z_matrix"]], -1)
    assert (before < place[:, None]).all()
    names = [atom.name for atom in peptide.topology.atoms()]
    assert [names[i] for i in order[:3]] == ["N", "CA", "C"]
    other = Peptide.from_pdb(written(peptide, "gromacs", reordered=True)).iupac()
    ours, theirs = ([atom_names(p)[i] for i in p.internal()["placement"]] for p in (peptide.iupac(), other))
    assert ours == theirs
