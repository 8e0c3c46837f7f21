"""Peptides: golden encodings and orderings, building, reading, and what is refused."""

import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from boltzray.molecules import Peptide
from boltzray.molecules.residues import ATOM_INDEX, LETTERS, ONE_LETTER, RESIDUE_INDEX, amber_order

TESTS = Path(__file__).parents[1]
PDBS = sorted((TESTS / "data" / "pdbs").glob("*/*.pdb"))
GOLDEN = [
    (name, key.split("/")[0])
    for name in ("prose_small", "tarflow_small")
    for key in np.load(TESTS / "golden" / f"{name}.npz")
    if key.endswith("/pdb")
]


def atom_names(peptide: Peptide) -> list[str]:
    return [f"{a.residue.index}:{a.residue.name}:{a.name}" for a in peptide.topology.atoms()]


def without(pdb: str, residue: int, atom: str) -> str:
    """PDB text less one atom."""
    return "\n".join(
        line
        for line in pdb.splitlines()
        if not (line.startswith("ATOM") and int(line[22:26]) == residue and line[12:16].strip() == atom)
    )


@pytest.mark.parametrize(("name", "sequence"), GOLDEN)
@pytest.mark.parametrize("source", ["pdb", "sequence"])
def test_golden_encodings_and_orderings(name: str, sequence: str, source: str) -> None:
    golden = np.load(TESTS / "golden" / f"{name}.npz")
    peptide = (
        Peptide.from_pdb(golden[f"{sequence}/pdb"].tobytes().decode())
        if source == "pdb"
        else Peptide.from_sequence(sequence)
    )
    assert peptide.sequence == sequence
    for field, arrays in (("encodings", peptide.encodings), ("permutations", peptide.orderings)):
        expected = {key.split("/")[2]: golden[key] for key in golden if key.startswith(f"{sequence}/{field}/")}
        assert arrays.keys() == expected.keys()
        for key, value in arrays.items():
            assert value.dtype == np.int64
            np.testing.assert_array_equal(value, expected[key], err_msg=key)


@pytest.mark.parametrize("path", PDBS, ids=lambda path: path.stem)
def test_sequence_has_atom_order_of_the_data(path: Path) -> None:
    read, built = Peptide.from_pdb(path), Peptide.from_sequence(path.stem)
    assert read.sequence == path.stem
    assert atom_names(read) == atom_names(built)
    heavy = np.array(["H" not in name.split(":")[2][:1] for name in atom_names(built)])
    standard = read.iupac()  # leucine's methyls are exchanged in these files
    np.testing.assert_allclose(standard.positions[heavy], built.positions[heavy], atol=1e-4)


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("shape", ["{}G", "A{}A", "G{}"])
def test_every_residue_round_trips(letter: str, shape: str) -> None:
    built = Peptide.from_sequence(shape.format(letter))
    read = Peptide.from_pdb(built.to_pdb())
    assert read.sequence == built.sequence == shape.format(letter)
    assert atom_names(read) == atom_names(built)
    np.testing.assert_array_equal(read.positions, built.positions)
    for order in read.orderings.values():
        np.testing.assert_array_equal(np.sort(order), np.arange(read.n_atoms))
    assert len(read.orderings) == 16
    bonds = [(a.index, b.index) for a, b in read.topology.bonds()]
    assert sorted(map(sorted, bonds)) == sorted(sorted((a.index, b.index)) for a, b in built.topology.bonds())


def test_vocabulary_size() -> None:
    assert len(ATOM_INDEX) == 56
    assert len(RESIDUE_INDEX) == 26


def test_building_is_deterministic_and_leaves_random_alone() -> None:
    random.seed(3)
    state = random.getstate()
    first = Peptide.from_sequence("ARIP")
    assert random.getstate() == state
    random.seed(4)
    np.testing.assert_array_equal(first.positions, Peptide.from_sequence("ARIP").positions)


def test_lower_case_pickle_and_new_positions(tmp_path: Path) -> None:
    peptide = Peptide.from_sequence(" arip ", max_residues=4)
    assert peptide.sequence == "ARIP"
    assert peptide.n_atoms == 70
    copy = pickle.loads(pickle.dumps(peptide))
    assert copy.to_pdb() == peptide.to_pdb()
    moved = peptide.positions + 1.0
    (tmp_path / "moved.pdb").write_text(peptide.to_pdb(moved))
    np.testing.assert_allclose(Peptide.from_pdb(tmp_path / "moved.pdb").positions, moved, atol=1e-9)
    np.testing.assert_allclose(Peptide.from_pdb(str(tmp_path / "moved.pdb")).positions, moved, atol=1e-9)
    with pytest.raises(ValueError, match=r"give \(70, 3\)"):
        peptide.to_pdb(moved[1:])


@pytest.mark.parametrize("residue", ONE_LETTER)
@pytest.mark.parametrize("last", [True, False])
def test_ambers_order_has_every_atom(residue: str, last: bool) -> None:
    letter = ONE_LETTER[residue]
    peptide = Peptide.from_sequence(f"G{letter}" if last else f"{letter}G")
    assert sorted(peptide.amber_order) == list(range(peptide.n_atoms))


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (["N", "CA", "XX", "C"], "XX of GLY 1 has no place in AMBER's order here: name atoms as the PDB does"),
        (["N", "CA", "CB", "C"], "CB of GLY 1"),
        (["N", "CA", "CA", "C"], "two atoms of a residue have one name"),
    ],
)
def test_atoms_without_a_place_in_ambers_order_are_named(atoms: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        amber_order(["GLY"], atoms, [0] * len(atoms))


def test_atoms_in_another_order_keep_their_types() -> None:
    """The orderings visit the same atoms, wherever the file has them."""
    peptide = Peptide.from_sequence("HW")
    lines = [line for line in peptide.to_pdb().splitlines() if line.startswith("ATOM")]
    first = [line for line in lines if int(line[22:26]) == 1]
    shuffled = Peptide.from_pdb("\n".join([*first[::-1], *lines[len(first) :]]) + "\nEND\n")
    for name, order in peptide.orderings.items():
        visited = [atom_names(peptide)[i] for i in order]
        assert visited == [atom_names(shuffled)[i] for i in shuffled.orderings[name]]


@pytest.mark.parametrize(
    ("sequence", "limit", "message"),
    [
        ("AXZ", None, f"unknown residue 'X' at position 2 of 'AXZ' (any residue): use {LETTERS}"),
        ("A A", None, "unknown residue ' ' at position 2"),
        ("", None, "the sequence is empty: give at least two residues"),
        ("A", None, "has one residue: give at least two"),
        ("ARIPA", 4, "'ARIPA' has 5 residues: give at most 4"),
    ],
)
def test_bad_sequences(sequence: str, limit: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        Peptide.from_sequence(sequence, max_residues=limit)
    assert message in str(caught.value)


def bad_pdbs() -> dict[str, tuple[str, str]]:
    aa, his = Peptide.from_sequence("AA"), Peptide.from_sequence("AH").to_pdb()
    text, mirrored = aa.to_pdb(), aa.to_pdb(aa.positions * [1, 1, -1])
    body = "\n".join(line for line in text.splitlines() if line.startswith("ATOM"))
    return {
        "too many": (body.replace("END", "") + "\n" + body[-80:].replace("OXT", "OXX"), "has atom OXX"),
        "protonation": (his.replace(" HE2 HIS", " HD1 HIS"), "HIS 2 of PDB text is histidine with its hydrogen on ND1"),
        "mirrored": (mirrored, "ALA 1 of PDB text is a D-amino acid"),
        "two chains": (body + "\nTER\n" + body.replace("ALA A", "ALA B") + "\n", "has 2 copies"),
        "nothing": ("REMARK 1\nEND\n", "PDB text has no ATOM lines"),
        "not numbers": (body.replace("-0.525", "-0.x25"), "is no readable PDB file"),
        "NaN": (body.replace("-0.525", "   nan"), "not finite"),
        "one residue": ("\n".join(x for x in body.splitlines() if int(x[22:26]) == 1), "has 1 residue"),
    }


@pytest.mark.parametrize("case", bad_pdbs())
def test_bad_pdbs(case: str) -> None:
    text, message = bad_pdbs()[case]
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        Peptide.from_pdb(text)
    assert message in str(caught.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no PDB file at .*none\.pdb: check the path"):
        Peptide.from_pdb(tmp_path / "none.pdb")
    (tmp_path / "binary.pdb").write_bytes(bytes(range(128, 256)))
    with pytest.raises(ValueError, match=r"not a text file|no ATOM lines"):
        Peptide.from_pdb(tmp_path / "binary.pdb")


def test_positions_all_equal_have_no_chirality() -> None:
    peptide = Peptide.from_sequence("AA")
    assert Peptide.from_pdb(peptide.to_pdb(np.zeros((23, 3)))).sequence == "AA"


def test_tables_import_without_openmm() -> None:
    code = (
        "import sys, molecules, molecules.residues;print([m for m in ('openmm', 'torch', 'Bio') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=TESTS.parent, capture_output=True, text=True)
    assert out.stdout.strip() == "[]", out.stderr
