"""Planar groups that have turned round are told, and named anew by where their atoms stand."""

import numpy as np
import pytest

from boltzray.molecules.batched.energy import BatchedEnergy
from boltzray.molecules.dynamics import minimised
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.planar_names import named_by_place, turned
from boltzray.molecules.runs import MDConfig

# Residue, atoms of the axis, and what turns about it: the amides, and all of ARG's guanidinium.
TURNS = {
    "N": (("CG", "ND2"), ("HD21", "HD22")),
    "Q": (("CD", "NE2"), ("HE21", "HE22")),
    "R": (("NE", "CZ"), ("NH1", "NH2", "HH11", "HH12", "HH21", "HH22")),
}


def rotated(peptide: Peptide, letter: str, degrees: float) -> np.ndarray:
    """The minimised structure (1, N, 3), in which groups are flat, with one turned about its axis."""
    at = {atom.name: atom.index for atom in peptide.topology.atoms() if atom.residue.index == 1}
    (start, end), moved = TURNS[letter]
    x = minimised(peptide, MDConfig()).astype(np.float64)
    axis = x[at[end]] - x[at[start]]
    axis /= np.linalg.norm(axis)
    rows = [at[name] for name in moved]
    away, angle = x[rows] - x[at[end]], np.radians(degrees)
    x[rows] = (
        x[at[end]]
        + away * np.cos(angle)
        + np.cross(axis, away) * np.sin(angle)
        + np.outer(away @ axis, axis) * (1 - np.cos(angle))
    )
    return x[None]


@pytest.mark.parametrize(("letter", "groups"), [("N", 1), ("Q", 1), ("R", 3), ("A", 0), ("H", 0), ("F", 0), ("D", 0)])
def test_groups_of_a_residue(letter: str, groups: int) -> None:
    assert len(Peptide.from_sequence(f"A{letter}A").planar_groups) == groups


@pytest.mark.parametrize("letter", TURNS)
def test_a_group_is_turned_from_a_quarter_on(letter: str) -> None:
    peptide = Peptide.from_sequence(f"A{letter}A")
    found = [
        bool(turned(peptide.planar_groups, rotated(peptide, letter, d))[0]) for d in (0, 60, 85, 95, 180, 265, 275)
    ]
    assert found == [False, False, False, True, True, True, False]


@pytest.mark.parametrize("letter", TURNS)
def test_atoms_are_named_by_where_they_stand(letter: str) -> None:
    peptide = Peptide.from_sequence(f"A{letter}A")
    x = np.concatenate([rotated(peptide, letter, degrees) for degrees in (0, 180, 150, 40)])
    given = x.copy()
    named = named_by_place(peptide.planar_groups, x)
    assert np.array_equal(x, given), "a copy"
    assert not turned(peptide.planar_groups, named).any()
    assert np.array_equal(named[[0, 3]], x[[0, 3]]), "what is not turned stays"
    assert not np.array_equal(named[1], x[1])
    np.testing.assert_allclose(named[1], x[0], atol=0.02)  # turned by half a turn it is as it was, under other names
    energy = BatchedEnergy(peptide, 310.0).evaluate_arrays
    np.testing.assert_allclose(
        energy(named, False).energy, energy(x, False).energy, atol=0.001
    )  # but for impropers, whose order is one


def test_both_ends_of_a_guanidinium_turn_by_themselves() -> None:
    peptide = Peptide.from_sequence("ARA")
    at = {atom.name: atom.index for atom in peptide.topology.atoms() if atom.residue.index == 1}
    x = peptide.positions.astype(np.float64)[None].copy()
    x[:, [at["HH21"], at["HH22"]]] = x[:, [at["HH22"], at["HH21"]]]
    assert turned(peptide.planar_groups, x).all()
    assert np.array_equal(named_by_place(peptide.planar_groups, x)[0], peptide.positions)


def test_a_file_with_other_names_has_the_same_groups() -> None:
    peptide = Peptide.from_sequence("ANQR")
    swapped = peptide.to_pdb().replace("HD21", "HX21").replace("HD22", "HD21").replace("HX21", "HD22")
    other = Peptide.from_pdb(swapped)
    assert other.planar_groups == peptide.planar_groups
    assert not turned(other.planar_groups, other.positions[None, other.iupac_order]).any()
