"""Names of prochiral atoms: IUPAC's in what is built, told by handedness in what is read."""

from pathlib import Path

import numpy as np
import pytest

from boltzray.molecules import Peptide
from boltzray.molecules.energy import OpenMMEnergy
from boltzray.molecules.residues import LETTERS
from boltzray.molecules.stereo import atom_map, atom_names, exchangeable
from tests.naming import STYLES, written

TWENTY = "PACDEFGHIKLMNQRSTVWY"

# IUPAC 1998 and BMRB: what the first of two names is, by its centre's substituents in order of priority (CIP).
PROCHIRAL = [
    ("GLY", "CA", ("N", "C"), ("HA2", "HA3"), "R"),
    *((r, "CB", ("CG", "CA"), ("HB2", "HB3"), "S") for r in ("ASP", "ASN", "HIS", "PHE", "TRP", "TYR")),
    ("SER", "CB", ("OG", "CA"), ("HB2", "HB3"), "S"),
    ("CYS", "CB", ("SG", "CA"), ("HB2", "HB3"), "S"),
    *((r, "CB", ("CA", "CG"), ("HB2", "HB3"), "R") for r in ("ARG", "GLN", "GLU", "LEU", "LYS", "MET", "PRO")),
    *((r, "CG", ("CD", "CB"), ("HG2", "HG3"), "S") for r in ("ARG", "GLN", "GLU", "PRO")),
    ("LYS", "CG", ("CB", "CD"), ("HG2", "HG3"), "R"),
    ("MET", "CG", ("SD", "CB"), ("HG2", "HG3"), "S"),
    *((r, "CD", ("NE" if r == "ARG" else "N", "CG"), ("HD2", "HD3"), "S") for r in ("ARG", "PRO")),
    ("LYS", "CD", ("CE", "CG"), ("HD2", "HD3"), "S"),
    ("LYS", "CE", ("NZ", "CD"), ("HE2", "HE3"), "S"),
    ("ILE", "CG1", ("CB", "CD1"), ("HG12", "HG13"), "R"),
    ("LEU", "CG", ("CB",), ("CD1", "CD2", "HG"), "R"),
    ("VAL", "CB", ("CA",), ("CG1", "CG2", "HB"), "R"),
]


def atoms_of(peptide: Peptide, residue: int) -> dict[str, np.ndarray]:
    return {a.name: peptide.positions[a.index] for a in peptide.topology.atoms() if a.residue.index == residue}


def configuration(atoms: dict[str, np.ndarray], centre: str, ranked: tuple[str, ...]) -> str:
    """R or S of four substituents in order of priority: the lowest points away."""
    a, b, c = (atoms[name] - atoms[centre] for name in ranked[:3])
    return "R" if np.dot(np.cross(a, b), c) < 0 else "S"


def torsion(atoms: dict[str, np.ndarray], *names: str) -> float:
    a, b, c, d = (atoms[name] for name in names)
    axis = (c - b) / np.linalg.norm(c - b)
    v, w = (a - b) - (a - b) @ axis * axis, (d - c) - (d - c) @ axis * axis
    return float(np.degrees(np.arctan2(np.cross(axis, v) @ w, v @ w)))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(("residue", "centre", "ranked", "names", "first_is"), PROCHIRAL)
def test_built_prochiral_names_are_iupacs(
    residue: str, centre: str, ranked: tuple[str, ...], names: tuple[str, ...], first_is: str, place: int
) -> None:
    from boltzray.molecules.residues import ONE_LETTER

    atoms = atoms_of(Peptide.from_sequence(ONE_LETTER[residue] * 3), place)
    # The first of two equal substituents counts as the higher, and is then R or S: that is pro-R or pro-S.
    assert configuration(atoms, centre, (*ranked, *names)) == first_is


@pytest.mark.parametrize("sequence", ["RNQ", "QRN", "NQR"])
def test_built_planar_groups_are_iupacs(sequence: str) -> None:
    peptide = Peptide.from_sequence(sequence)
    for i, residue in enumerate(peptide.topology.residues()):
        atoms = atoms_of(peptide, i)
        cis = {
            "ARG": [("CD", "NE", "CZ", "NH1"), ("NE", "CZ", "NH1", "HH12"), ("NE", "CZ", "NH2", "HH21")],
            "ASN": [("CB", "CG", "ND2", "HD21")],
            "GLN": [("CG", "CD", "NE2", "HE21")],
        }[residue.name]
        for names in cis:
            other = names[-1][:-1] + {"1": "2", "2": "1"}[names[-1][-1]]
            assert abs(torsion(atoms, *names)) < abs(torsion(atoms, *names[:-1], other))


def test_chiral_centres_of_what_is_built() -> None:
    peptide = Peptide.from_sequence("TIA")
    threonine, isoleucine = atoms_of(peptide, 0), atoms_of(peptide, 1)
    assert configuration(threonine, "CA", ("N", "C", "CB", "HA")) == "S"
    assert configuration(threonine, "CB", ("OG1", "CA", "CG2", "HB")) == "R"
    assert configuration(isoleucine, "CB", ("CA", "CG1", "CG2", "HB")) == "S"


@pytest.mark.parametrize("letter", LETTERS)
def test_every_built_structure_is_in_the_standard_order(letter: str) -> None:
    for sequence in (letter * 3, f"{letter}G", f"A{letter}"):
        peptide = Peptide.from_sequence(sequence)
        np.testing.assert_array_equal(peptide.iupac_order, np.arange(peptide.n_atoms))
        assert peptide.iupac() is peptide


def exchanged(peptide: Peptide, residue: int, rng: np.random.Generator) -> Peptide:
    """The peptide with the names of some exchangeable pairs of a residue the other way round."""
    x = peptide.positions.copy()
    at = {a.name: a.index for a in peptide.topology.atoms() if a.residue.index == residue}
    name = list(peptide.topology.residues())[residue].name
    for one in exchangeable(name):
        if rng.random() < 0.5 and one.needed <= at.keys():
            for a, b in zip(one.first, one.second, strict=True):
                if a in at and b in at:
                    x[[at[a], at[b]]] = x[[at[b], at[a]]]
    return Peptide.from_pdb(peptide.to_pdb(x))


@pytest.mark.parametrize("letter", LETTERS)
def test_exchanged_names_are_told_by_handedness_and_kept(letter: str) -> None:
    """Whatever names a file has, the standard order holds the same atoms; the file's own names stay in its topology."""
    built, rng = Peptide.from_sequence(letter * 3), np.random.default_rng(0)
    for residue in range(3):
        other = exchanged(built, residue, rng)
        assert atom_names(other) == atom_names(built)
        np.testing.assert_array_equal(other.positions[other.iupac_order], built.positions)
        np.testing.assert_array_equal(other.iupac().positions, built.positions)
        index = atom_map(other, built)
        np.testing.assert_array_equal(other.positions[index], built.positions)
        np.testing.assert_array_equal(built.positions[atom_map(built, other)], other.positions)


@pytest.mark.parametrize("reordered", [False, True])
@pytest.mark.parametrize("style", STYLES)
def test_all_residues_under_the_names_of_other_programs(style: str, reordered: bool) -> None:
    """The same peptide to the last bit, and so the same energies, densities and draws."""
    built = Peptide.from_sequence(TWENTY)
    read = Peptide.from_pdb(written(built, style, reordered=reordered))
    assert read.sequence == TWENTY
    assert read.notes == ()
    standard = read.iupac()
    assert atom_names(standard) == atom_names(built)
    np.testing.assert_array_equal(standard.positions, built.positions)
    for name, order in standard.orderings.items():
        np.testing.assert_array_equal(order, built.orderings[name])
    bonds = [[(a.index, b.index) for a, b in p.topology.bonds()] for p in (standard, built)]
    assert bonds[0] == bonds[1]


def test_the_energy_does_not_see_the_order_of_the_file() -> None:
    built = Peptide.from_sequence("PRLNI")
    read = Peptide.from_pdb(written(built, "gromacs", reordered=True))
    here = OpenMMEnergy(built).evaluate(built.positions[None], gradient=False).energy
    there = OpenMMEnergy(read).evaluate(read.positions[None], gradient=False).energy
    np.testing.assert_allclose(there, here, rtol=1e-9)


def test_frames_that_are_named_otherwise_than_their_file(data: Path) -> None:
    """The MD of AA has HB2 and HB3 the other way round than its PDB file: frames tell their own atoms."""
    peptide = Peptide.from_pdb(data / "pdbs" / "test" / "AA.pdb")
    with np.load(data / "trajectories_subsampled/test/2AA/AA_subsampled.npz") as archive:
        frames = archive["positions"]
    orders = {tuple(peptide.at(frame).iupac_order) for frame in frames[::50]}
    assert len(orders) == 1
    assert orders != {tuple(peptide.iupac_order)}


def test_other_molecules_are_not_mapped() -> None:
    with pytest.raises(ValueError, match="AA and AG do not have the same atoms"):
        atom_map(Peptide.from_sequence("AA"), Peptide.from_sequence("AG"))
