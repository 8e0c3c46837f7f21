"""Names of peptides: what is read and as what, and that nothing is read as letters that could mean anything else."""

import gzip
from itertools import product
from pathlib import Path

import pytest

from boltzray.molecules.residues import LETTERS, ONE_LETTER
from boltzray.molecules.sequence_files import is_sequence_file, read_sequence_file, unique
from boltzray.molecules.sequences import canonical, label, n_residues, parse_sequence, reading_note

READ = {
    "ARIP": ("ARIP", " arip ", "ARIP*", "A-R-I-P", "Ala-Arg-Ile-Pro", "AlaArgIlePro", ">1abc\nAR\nIP*\n", ">x\narip"),
    "AG": ("AlaGly", "Ala-Gly", "ALA-GLY", "ala-gly", "Ala Gly", "H-Ala-Gly-OH", "Ala‑Gly", "H-AG-OH"),
    "HA": ("HA", "His-Ala", "HIE-ALA", "HseAla"),
    "ACE-A-NME": ("ACE-A-NME", "Ace-Ala-Nme", "Ac-Ala-NHMe", "ACE-ALA-NME", "AceAlaNme", "ace-a-nme", "Ac-A-NHMe"),
    "ACE-AAAA-NME": ("ACE-AAAA-NME", "Ac-Ala-Ala-Ala-Ala-NHMe"),
    "ACE-A-L-A-NME": ("ACE-A-L-A-NME", "Ace-Ala-Leu-Ala-Nme"),
    "ACE-AG": ("ACE-AG", "Ac-Ala-Gly-OH"),
    "A-NME": ("A-NME", "H-Ala-NHMe", "ALA-NME"),
    "ALAGLY": ("ALAGLY", "alagly"),  # capitals without hyphens are one-letter codes
    "ACE": ("ACE",),
    "ALA-HIP-ALA": ("ALA-HIP-ALA", "Ala-Hip-Ala", "AlaHipAla", "H-Ala-Hsp-Ala-OH", "ala hip ala"),
    "ACE-HID-NME": ("ACE-HID-NME", "Ac-Hsd-NHMe"),
    "HIS-ASH-GLH": ("HIE-ASH-GLH",),
    "ACE-H-I-P-NME": ("ACE-H-I-P-NME", "Ace-His-Ile-Pro-Nme"),
    **{word: (word,) for word in ("HIP", "ASH", "GLH", "HID")},  # rows of one-letter codes
    **{word: (word,) for word in ("NAN", "INF", "YES", "NA", "FALSE", "MSE")},
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in READ.items() for text in texts])
def test_names_are_read(name: str, text: str) -> None:
    assert parse_sequence(text) == name == parse_sequence(name)


REFUSED = {
    "lower-case 'd' means a D-residue in HELM and RDKit": ("dAla",),
    "lower-case 'a' means a D-residue": ("aG",),
    "upper and lower case are mixed": ("AAlaG", "None", "arIP"),
    "D-residues cannot be built from a name": ("D-Ala", "D-Ala-Gly", "Ala-D-Ala", "dAla-Gly", "DAla-Gly", "d-ala"),
    "write DAG for one-letter codes": ("D-A-G",),
    "write HAG for one-letter codes": ("H-A-G",),
    "leave out L-": ("L-Ala-L-Gly",),
    "has one residue": ("Ala", "A", "H-Ala-OH", "Trp"),
    "has no residue": ("ACE-NME",),
    "is empty": ("", "  ", "*"),
    "the header of a FASTA record": (">header\n", "sp|P01308|INS_HUMAN Insulin"),
    "NH2 is an amide as C terminus": ("Ala-Gly-NH2", "AG-NH2", "NH2", "Ac-Ala-NH2"),
    "phosphorylated residues cannot": ("(pS)", "A(pS)G", "pSer-Ala", "ApSG", "AS(p)G", "pS-A", "pS"),
    "Aib is aminoisobutyric acid": ("Aib-Ala", "AlaAib"),
    "is selenomethionine": ("MseAla", "A-MSE-G", "ACE-MSE-NME"),
    "SEP is phosphoserine": ("ALA-SEP-GLY",),
    "is a state of protonation: write all residues in three-letter codes": ("Hip", "hip", "AHip"),
    "beside HIP write all residues as in ALA-HIP-ALA": ("A-HIP-A", "AA-HIP", "ALA-SEP-HIP", "ACE-A-HIP-NME"),
    "is a terminal group": ("Boc-Ala-Gly", "pGlu-Ala"),
    "unknown three-letter code": ("AlaXyz", "Abu-Ala"),
    "are mixed": ("Ala-G", "A-Gly"),
    "NME belongs at the end": ("NME-A-ACE",),
    "AA is no three-letter code": ("AA-GG",),
    "nothing between two hyphens": ("Ala--Gly", "-A", "AA-"),
    "brackets": ("c(AAGG)", "cyclo(Ala-Gly)", "[dA]G"),
    "HELM is not read": ("PEPTIDE1{A.G}$$$$",),
    "'B' at position 2 of 'ABA' (aspartate or asparagine)": ("ABA",),
    "'J' at position 1 of 'JA' (leucine or isoleucine)": ("JA",),
    "'O' at position 2 of 'AOA' (pyrrolysine)": ("AOA",),
    "'U' at position 1 of 'UAA' (selenocysteine)": ("UAA",),
    "'X' at position 2 of 'AXZ' (any residue)": ("AXZ",),
    "'Z' at position 3 of 'AAZ' (glutamate or glutamine)": ("AAZ",),
    "has 2 records": (">a\nAA\n>b\nGG\n",),
}


@pytest.mark.parametrize(("message", "text"), [(m, text) for m, texts in REFUSED.items() for text in texts])
def test_nothing_is_read_as_other_letters(message: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        parse_sequence(text)
    assert message in str(caught.value)


def test_every_pair_of_codes_in_every_writing() -> None:
    for (one, a), (two, b) in product(ONE_LETTER.items(), repeat=2):
        for text in (f"{one}-{two}", f"{one.title()}{two.title()}", f"H-{one.title()}-{two.title()}-OH", f"{a}{b}"):
            assert parse_sequence(text) == a + b


@pytest.mark.parametrize("length", [1, 2, 3])
def test_labels_of_capped_chains_are_names_that_are_read_as_them(length: int) -> None:
    """Also of rows that spell a three-letter code, such as Ace-Ala-Leu-Ala-Nme."""
    codes = {letter: code for code, letter in ONE_LETTER.items()}
    for row in map("".join, product(LETTERS, repeat=length)):
        inner = [codes[letter] for letter in row]
        for chain in (["ACE", *inner, "NME"], ["ACE", *inner], [*inner, "NME"]):
            name = label(chain)
            assert parse_sequence(name) == name
            assert n_residues(name) == length
        assert label(["ACE", *inner, "NME"]) == canonical(row, "ACE", "NME")


def test_length_without_caps() -> None:
    lengths = {"ACE-AAAA-NME": 4, "ACE-A-NME": 1, "A-NME": 1, "ACE-A-L-A-NME": 3, "ACE": 3, "MSE": 3, "AA-MSE-GG": 5}
    lengths |= {"ALA-HIP-ALA": 3, "ACE-HIP-NME": 1, "HIP": 3}
    assert {name: n_residues(name) for name in lengths} == lengths
    assert label(["ALA", "MSE", "GLY"]) == "A-MSE-G"
    assert label(["ACE", "ALA", "HIP", "NME"]) == "ACE-ALA-HIP-NME"


def test_capitals_that_spell_codes_are_pointed_out() -> None:
    assert reading_note("ALAGLY") == "ALAGLY is read as 6 residues in one-letter codes: write ALA-GLY for 2"
    assert reading_note("ARIPAA") is None
    assert reading_note("ACE-A-NME") is None


def test_the_same_peptide_twice_is_one(tmp_path: Path) -> None:
    assert unique(["AG", "ag", "AL", "Ala-Gly"]) == (("AG", "AL"), "given more than once, and taken once: AG")
    assert unique(["AG", "GA"]) == (("AG", "GA"), None)


@pytest.mark.parametrize("name", ["p.fasta", "p.fa", "p.faa", "P.TXT", "p.txt.gz"])
def test_files_of_sequences(tmp_path: Path, name: str) -> None:
    fasta, plain = "﻿>sp|1| first\nAR\nIP\n\n>second\nGG*\n", "ARIP\n# a comment\n\nGly-Gly  # capped later\n"
    text = plain if "txt" in name.lower() else fasta
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert is_sequence_file(name)
    assert read_sequence_file(tmp_path / name) == ["ARIP", "GG"]


def test_bad_files_of_sequences(tmp_path: Path) -> None:
    (tmp_path / "x.fasta").write_text(">one\nAA\n>two\nAXA\n")
    (tmp_path / "x.txt").write_text("AA\nAlaX\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "x.fa.gz").write_bytes(b"no gzip")
    for name, message in {
        "x.fasta": ">two of .*'X' at position 2",
        "x.txt": "line 2 of .*mixed",
        "empty.txt": "holds no sequence",
        "x.fa.gz": "no file of sequences",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_sequence_file(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="check the path"):
        read_sequence_file(tmp_path / "none.fasta")
