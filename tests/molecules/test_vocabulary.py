"""Caps and states of protonation: built, read, encoded, with usual geometry and energies as of other residues."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from openmm import unit

from boltzray.molecules import BatchedEnergy, Peptide
from boltzray.molecules.bonds import check_structure
from boltzray.molecules.constants import KB
from boltzray.molecules.forcefield import create_system
from boltzray.molecules.geometry import measure
from boltzray.molecules.residues import ATOM_INDEX, RESIDUE_INDEX, STATES, vocabulary_of
from boltzray.molecules.stereo import atom_names
from boltzray.molecules.zmatrix import geometry_version, widened

CHAINS = ["ALA-HIP-ALA", "HID-ALA", "ALA-HIP", "GLY-ASH-PRO", "ACE-GLH-NME", "ACE-P-NME", "ACE-AG", "WK-NME"]


@pytest.mark.parametrize("name", CHAINS)
def test_what_is_built_is_read_again_and_has_its_own_types(name: str) -> None:
    peptide = Peptide.from_sequence(name)
    check_structure(peptide.positions, peptide.topology, name)
    again = Peptide.from_pdb(peptide.to_pdb())
    assert again.sequence == peptide.sequence == name
    assert atom_names(again) == atom_names(peptide)
    assert peptide.vocabulary == 2
    residues = [residue.name for residue in peptide.topology.residues()]
    atoms = [atom.name for atom in peptide.topology.atoms()]
    types = peptide.encodings["aa_type"]
    assert {int(i) for i in types} == {RESIDUE_INDEX[residue] for residue in residues}
    for order in peptide.orderings.values():
        assert sorted(order.tolist()) == list(range(len(atoms)))
    methyls = {atoms[i] for i, kind in enumerate(peptide.encodings["atom_type"]) if kind >= ATOM_INDEX["CH3"]}
    ends = {"ACE": {"CH3", "H1", "H2", "H3"}, "NME": {"C", "H1", "H2", "H3"}}
    assert methyls == set().union(*(ends.get(residue, set()) for residue in residues))


def test_the_public_vocabulary_is_the_first_part() -> None:
    assert list(RESIDUE_INDEX.values()) == list(range(1, 27))
    assert (RESIDUE_INDEX["VAL"], ATOM_INDEX["SG"], max(ATOM_INDEX.values())) == (20, 54, 56)
    assert [vocabulary_of(r) for r in (["ALA"], ["ALA", "NME"], ["HIP"], ["MSE", "ALA"])] == [1, 2, 2, 0]


@pytest.mark.parametrize("name", CHAINS)
def test_every_atom_has_its_place_in_the_tree_and_usual_values(name: str) -> None:
    """The means against a structure that is built, not simulated: no atoms mixed up."""
    peptide = Peptide.from_sequence(name)
    internal = peptide.internal()
    present = internal["z_matrix"] >= 0
    assert present.sum() == 3 * peptide.n_atoms - 6
    place = np.argsort(internal["placement"])
    assert (np.where(present, place[internal["z_matrix"]], -1) < place[:, None]).all()
    built = _measured(peptide)
    heavy = np.array([atom.element.symbol != "H" for atom in peptide.topology.atoms()])
    stiff = present[:, 2] & (internal["rotatable"] == 0)
    off = np.abs(built - internal["mean"])
    turn = np.abs((off[:, 2] + np.pi) % (2 * np.pi) - np.pi)
    assert off[:, 0][present[:, 0]].max() < 0.03
    assert off[:, 1][present[:, 1] & heavy].max() < np.radians(30)
    assert turn[stiff].max() < np.radians(90)  # siblings are 240° or 180° apart


def _measured(peptide: Peptide) -> np.ndarray:
    """Bond, angle and torsion of each atom in the file's structure, by `geometry.measure` of longer chains."""
    n = len(list(peptide.topology.residues()))
    table = measure(peptide, peptide.positions[None])
    found = {}
    for atom in peptide.topology.atoms():
        place = "first" if atom.residue.index == 0 else "last" if atom.residue.index == n - 1 else "middle"
        found[atom.index] = table[place][atom.name][:3]
    return np.array([found[i] for i in range(peptide.n_atoms)])


def test_usual_values_of_the_twenty_are_those_of_the_first_vocabulary() -> None:
    peptide = Peptide.from_sequence("AHK")
    first, second = peptide.internal(geometry_version()), peptide.internal(geometry_version(2))
    for key, values in first.items():
        np.testing.assert_array_equal(values, second[key])
    assert widened(geometry_version()) == geometry_version(2) == widened(geometry_version(2))
    with pytest.raises(ValueError, match="ACE, NME has no usual geometry in the table that this flow"):
        Peptide.from_sequence("ACE-A-NME").internal(geometry_version())


@pytest.mark.parametrize("name", ["ALA-HIP-ALA", "ACE-ASH-NME", "HID-GLY"])
def test_batched_energies_are_openmm_s(name: str) -> None:
    peptide = Peptide.from_sequence(name)
    x = peptide.positions + 0.002 * np.random.default_rng(0).standard_normal(peptide.positions.shape)
    integrator, platform = openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(create_system(peptide), integrator, platform)
    context.setPositions(x)
    energy = context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    ours = float(BatchedEnergy(peptide, 310.0).double().evaluate(torch.from_numpy(x[None]), gradient=False).energy[0])
    assert ours == pytest.approx(energy / (KB * 310.0), abs=1e-5)


def _renamed(peptide: Peptide, residue: str, atoms: dict[str, str], state: str) -> str:
    """PDB text of a peptide as another program writes it, without our remark."""
    rows: list[str] = []
    for line in peptide.to_pdb().splitlines():
        if line.startswith("REMARK"):
            continue
        if line.startswith("ATOM") and line[17:20] == state:
            name = atoms.get(line[12:16].strip(), line[12:16].strip())
            label = name if len(name) == 4 else f" {name:<3}"
            line = f"{line[:12]}{label}{line[16:17]}{residue:<4}{line[21:]}"
        rows.append(line)
    return "\n".join([*rows, ""])


@pytest.mark.parametrize(
    ("state", "residue", "atoms"),
    [
        ("HIP", "HIS", {}),
        ("HIP", "HSP", {"HB2": "HB1", "HB3": "HB2"}),
        ("HID", "HIS", {}),
        ("HID", "HSD", {}),
        ("HIP", "NHIP", {}),
        ("ASH", "ASP", {}),
        ("ASH", "ASP", {"HD2": "HD1", "OD1": "OD2", "OD2": "OD1"}),  # on the other oxygen
        ("GLH", "GLUP", {}),
    ],
)
def test_states_are_told_by_hydrogens_and_names_where_they_are_asked_for(
    state: str, residue: str, atoms: dict[str, str]
) -> None:
    built = Peptide.from_sequence(f"ALA-{state}-GLY")
    text = _renamed(built, residue, atoms, state)
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        Peptide.from_pdb(text)
    read = Peptide.from_pdb(text, states=True)
    assert read.sequence == f"ALA-{state}-GLY"
    assert atom_names(read.iupac()) == atom_names(built)


def test_the_usual_states_stay_what_they_are() -> None:
    for name in ("HDEK", "ACE-H-NME"):
        peptide = Peptide.from_sequence(name)
        assert Peptide.from_pdb(peptide.to_pdb(), states=True).sequence == name
        assert "REMARK" not in peptide.to_pdb().replace("REMARK   1 CREATED", "")


def test_a_state_without_hydrogens_gets_those_of_its_name() -> None:
    built = Peptide.from_sequence("ALA-HIP-ALA")
    heavy = "\n".join(
        line for line in built.to_pdb().splitlines() if not (line.startswith("ATOM") and line[76:78].strip() == "H")
    )
    read = Peptide.from_pdb(heavy + "\n", states=True)
    assert read.sequence == "ALA-HIP-ALA"
    assert atom_names(read.iupac()) == atom_names(built)


def test_a_state_that_the_force_field_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="no parameters for ALA-ASH"):
        create_system(Peptide.from_sequence("ALA-ASH"))
    with pytest.raises(ValueError, match="ASH is the last residue, and the force field has none at that end"):
        Peptide.from_sequence("ALA-ASH").internal()


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_another_molecule_than_its_residue(state: str) -> None:
    usual, gained, lost = STATES[state]
    names = [_residue_atoms(f"ALA-{residue}-GLY") for residue in (state, usual)]
    assert (names[0] - names[1], names[1] - names[0]) == (gained, lost)


def _residue_atoms(name: str) -> set[str]:
    atoms: Sequence[str] = atom_names(Peptide.from_sequence(name))
    return {atom.split()[2] for atom in atoms if atom.startswith("2 ")}


def test_names_of_molecules_with_digits_are_names_of_files(tmp_path: Path) -> None:
    from boltzray.molecules.references import find_pdb, find_reference

    for name in ("ace-ala-nme-charmm36", "2ABC", "mol1"):
        assert find_reference(tmp_path, name) is find_pdb(tmp_path, name) is None
    with pytest.raises(ValueError, match="letters and hyphens"):
        find_pdb(tmp_path, "../x")
