"""States of torsions: which there are, their windows, and rotamers of leucine as they are known."""

from pathlib import Path

import numpy as np
import pytest

from boltzray.molecules import Peptide
from boltzray.molecules.torsion_states import TorsionState, occupied, states_of, torsion_states


def torsions(sequence: str) -> list[str]:
    """Torsions with a state, each once."""
    return list(dict.fromkeys(state.label.split(" ")[0] for state in states_of(Peptide.from_sequence(sequence))))


def test_all_states_of_a_dipeptide() -> None:
    labels = ["ψ(A1) −120…50°", "ψ(A1) 50…240°", "ω(A1) cis", "φ(A2) 0…120°"]
    assert [state.label for state in states_of(Peptide.from_sequence("AA"))] == labels


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ("GG", "ψ(G1) ω(G1) φ(G2)"),
        ("GP", "ψ(G1) ω(G1)"),
        ("PA", "ψ(P1) ω(P1) φ(A2)"),
        ("ACE-A-NME", "ω(ACE) φ(A1) ψ(A1) ω(A1)"),
        ("ACE-P-NME", "ω(ACE) ψ(P1) ω(P1)"),
        ("FL", "ψ(F1) ω(F1) χ1(F1) φ(L2) χ1(L2) χ2(L2)"),  # χ2 of F is two-fold, the methyls of L are left out
        ("VT", "ψ(V1) ω(V1) χ1(V1) φ(T2) χ1(T2)"),
        ("DK", "ψ(D1) ω(D1) χ1(D1) φ(K2) χ1(K2) χ2(K2)"),
        ("CI", "ψ(C1) ω(C1) χ1(C1) φ(I2) χ1(I2) χ2(I2)"),
        ("EM", "ψ(E1) ω(E1) χ1(E1) χ2(E1) φ(M2) χ1(M2) χ2(M2)"),
    ],
)
def test_torsions_of_peptides(sequence: str, expected: str) -> None:
    assert torsions(sequence) == expected.split()


def test_unknown_residues_and_names_have_what_their_atoms_tell() -> None:
    topology = Peptide.from_sequence("ALA").topology
    known = torsion_states(topology, "ALA")
    second = list(topology.residues())[1]
    second.name = "UNK"
    assert torsion_states(topology, "ALA") == known
    assert [state.label for state in torsion_states(topology, "")][3] == "φ(X2) 0…120°"
    for atom in second.atoms():
        atom.name = f"?{atom.name}"
    assert {state.label.split(" ")[0] for state in torsion_states(topology, "ALA")} == set()


@pytest.mark.parametrize("sequence", ["FHWDN", "ESTCI", "QYLVM", "KRPGA", "ACE-PP-NME"])
def test_windows_of_psi_and_chi_are_a_partition(sequence: str) -> None:
    peptide = Peptide.from_sequence(sequence)
    states, noise = states_of(peptide), np.random.default_rng(0).normal(size=(50, peptide.n_atoms, 3))
    inside = occupied(states, peptide.positions + 0.2 * noise)
    assert len({state.label for state in states}) == len(states)
    for torsion in {state.atoms for state in states if state.label[0] in "ψχ"}:
        columns = [i for i, state in enumerate(states) if state.atoms == torsion]
        assert (inside[:, columns].sum(axis=1) == 1).all()


def frame(degrees: float) -> np.ndarray:
    """Four atoms with this torsion, by IUPAC's sign: seen along the middle bond, clockwise is positive."""
    angle = np.radians(degrees)
    return np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1], [np.cos(angle), np.sin(angle), 1]])


@pytest.mark.parametrize(
    ("low", "high", "inside", "outside"),
    [
        (0, 120, (1, 60, 119), (-1, 121, 180, -60)),
        (-120, 50, (-119, 0, 49), (-121, 51, 180)),
        (50, 240, (51, 180, -179, -121), (49, -119, 0)),
        (120, 240, (121, 180, -121), (119, -119, 60)),
        (-90, 90, (-89, 0, 89), (91, -91, 180)),
    ],
)
def test_windows_lie_on_the_circle(low: float, high: float, inside: tuple[int], outside: tuple[int]) -> None:
    state = TorsionState(label="", atoms=(0, 1, 2, 3), low_deg=low, high_deg=high)
    assert occupied([state], [frame(x) for x in inside]).all()
    assert not occupied([state], [frame(x) for x in outside]).any()


def test_frames_that_failed_are_in_no_state() -> None:
    states = [TorsionState(label="", atoms=(0, 1, 2, 3), low_deg=low, high_deg=low + 180) for low in (0, 180)]
    failed = np.full((1, 4, 3), np.nan)
    assert occupied(states, np.concatenate([failed, frame(30)[None]])).tolist() == [[False, False], [True, False]]
    assert occupied([], failed).shape == (1, 0)


def test_rotamers_of_leucine_are_those_of_its_handedness(data: Path) -> None:
    """mt (g−, t) and tp (t, g+) are leucine's two rotamers (Lovell et al. 2000), whatever CD1 is in the file."""
    peptide = Peptide.from_pdb(data / "pdbs" / "val" / "AL.pdb")
    assert peptide.topology is not peptide.iupac().topology, "the file has CD1 and CD2 exchanged"
    angles = {state.label: state for state in states_of(peptide)}
    naive = {state.label: state for state in torsion_states(peptide.topology, "AL")}
    assert angles["χ1(L2) t"] == naive["χ1(L2) t"]
    assert angles["χ2(L2) t"].atoms != naive["χ2(L2) t"].atoms
    names = {atom.index: atom.name for atom in peptide.topology.atoms()}
    assert [names[i] for i in angles["χ2(L2) t"].atoms] == ["CA", "CB", "CG", "CD2"]
