"""Structure files as people have them: what is read, what is said, and what is refused by which name."""

import gzip
import time
from pathlib import Path

import numpy as np
import pytest
from openmm import app, unit

from boltzray.molecules import Peptide
from boltzray.molecules.stereo import atom_names
from boltzray.molecules.structure_text import MAX_BYTES
from tests.naming import written

CASES = Path(__file__).parents[1] / "data" / "cases"
KINDS = CASES / "pdb_kinds"

READ = {
    "AG.cif": (),
    "AG.pdb.gz": (),
    "conect_extra.pdb": (),
    "crlf.pdb": (),
    "cryst1_unit.pdb": (),
    "cryst1_zero.pdb": (),
    "hydrogens_H01.pdb": (),
    "hydrogens_first_col.pdb": (),
    "latin1.pdb": (),
    "lower.pdb": (),
    "no_element_columns.pdb": (),
    "two_models.pdb": ("the first of 2 models was taken",),
    "ion.pdb": ("1 molecule of solvent or ions was left out (CL)",),
    "water_after_TER.pdb": ("2 molecules of solvent or ions were left out (HOH)",),
    "water_same_chain.pdb": ("2 molecules of solvent or ions were left out (HOH)",),
    "no_hydrogens_bfactor.pdb": ("all hydrogens were missing and added (charged ends, HIS as HIE)",),
}
REFUSED = {
    "ASH.pdb": "ASP 2 of .* is neutral aspartic acid",
    "CYX.pdb": "CYX 1 of .* is a cysteine of a disulphide bridge",
    "disulfide_SS.pdb": "CYS 1 of .* is a cysteine without HG",
    "HID.pdb": r"HIS 2 of .* with its hydrogen on ND1 \(HID\)",
    "HID_named.pdb": r"HID 2 of .* with its hydrogen on ND1 \(HID\)",
    "HIP.pdb": "HIS 2 of .* doubly protonated",
    "LYN.pdb": "LYN 2 of .* neutral lysine",
    "MSE.pdb": "MSE 2 of .* non-standard residue .selenomethionine: give MET",
    "allo_THR.pdb": r"THR 2 of .* is the allo form \(mirrored at CB\)",
    "neutral_nterm.pdb": "neutral N terminus",
    "two_copies.pdb": "has 2 copies: give one peptide chain",
}


def test_every_file_of_the_folder_is_here() -> None:
    assert {path.name for path in KINDS.iterdir()} == READ.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", READ)
def test_kinds_of_files_that_are_read(name: str) -> None:
    peptide = Peptide.from_pdb(KINDS / name)
    assert peptide.sequence in ("AG", "AA")
    assert atom_names(peptide.iupac()) == atom_names(Peptide.from_sequence(peptide.sequence))
    assert peptide.notes == READ[name]
    n_bonds = len(list(Peptide.from_sequence(peptide.sequence).topology.bonds()))
    assert len(list(peptide.topology.bonds())) == n_bonds  # of the templates, not of CONECT


@pytest.mark.parametrize("name", REFUSED)
def test_kinds_that_cannot_be_sampled_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[name]) as caught:
        Peptide.from_pdb(KINDS / name)
    assert "\n" not in str(caught.value)


def test_allo_isoleucine_is_refused() -> None:
    """The other configuration at CB: CG2 and HB exchanged."""
    built = Peptide.from_sequence("AI")
    at = {a.name: a.index for a in built.topology.atoms() if a.residue.index == 1}
    x = built.positions.copy()
    axis = x[at["CB"]] - x[at["CA"]]
    for a, b in (("CG2", "HB"),):
        away = [x[at[n]] - x[at["CB"]] for n in (a, b)]
        size = [np.linalg.norm(v) for v in away]
        moved = away[1] / size[1] * size[0] - away[0]
        x[at[b]] = x[at["CB"]] + away[0] / size[0] * size[1]
        for name in (a, "HG21", "HG22", "HG23"):
            x[at[name]] += moved
    assert axis.any()
    with pytest.raises(ValueError, match=r"ILE 2 of .* is the allo form \(mirrored at CB\)"):
        Peptide.from_pdb(built.to_pdb(x))
    with pytest.raises(ValueError, match="THR 2 of"):
        Peptide.from_pdb(CASES / "allo_threonine" / "allo.pdb")


def test_proline_of_pdb2gmx_at_the_start() -> None:
    peptide = Peptide.from_pdb(CASES / "nterminal_proline" / "PAI_pdb2gmx.pdb")
    assert peptide.sequence == "PAI"
    assert atom_names(peptide.iupac()) == atom_names(Peptide.from_sequence("PAI"))


def test_leucine_of_either_naming_comes_back_as_it_was() -> None:
    peptide = Peptide.from_pdb(CASES / "leucine" / "LE_iupac.pdb")
    again = Peptide.from_pdb(peptide.to_pdb())
    np.testing.assert_array_equal(again.positions, peptide.positions)
    assert atom_names(again) == atom_names(peptide)
    leucine = {a.name: a.index for a in peptide.topology.atoms() if a.residue.index == 0}
    standard = [atom_names(peptide)[i] for i in peptide.iupac_order]
    assert standard[leucine["CD1"]] == "1 LEU CD1"  # the file has IUPAC's


def lines_of(peptide: Peptide, keep: object = None) -> list[str]:
    return [line for line in peptide.to_pdb().splitlines() if line.startswith("ATOM") and (not keep or keep(line))]


def named(line: str) -> str:
    return line[12:16].strip()


def test_missing_atoms_are_added_and_said() -> None:
    peptide = Peptide.from_sequence("AKS")
    bare = [line for line in lines_of(peptide) if named(line)[0] != "H"]
    no_end = [line for line in bare if named(line) != "OXT"]
    no_side = [line for line in bare if not (line[17:20] == "LYS" and named(line) in ("CE", "NZ"))]
    one_less = [line for line in lines_of(peptide) if named(line) != "HB2"]
    for lines, notes in (
        (bare, ["all hydrogens"]),
        (no_end, ["1 heavy atom was missing and added (OXT of SER 3)", "all hydrogens"]),
        (no_side, ["2 heavy atoms were missing and added (CE of LYS 2, NZ of LYS 2)", "all hydrogens"]),
        (one_less, ["3 hydrogens were missing"]),
    ):
        read = Peptide.from_pdb("\n".join([*lines, "END"]) + "\n")
        assert atom_names(read.iupac()) == atom_names(peptide)
        assert len(read.notes) == len(notes)
        assert all(note.startswith(start) for note, start in zip(read.notes, notes, strict=True))
        assert read.file_atoms is None
        assert Peptide.from_pdb("\n".join([*lines, "END"]) + "\n").to_pdb() == read.to_pdb()  # the same every time


def test_polar_hydrogens_alone_are_completed() -> None:
    """As GROMOS and AutoDock have them."""
    peptide = Peptide.from_sequence("AKS")
    polar = {"H", "H2", "H3", "HZ1", "HZ2", "HZ3", "HG"}
    lines = lines_of(peptide, lambda line: named(line)[0] != "H" or named(line) in polar)
    assert Peptide.from_pdb("\n".join(lines) + "\nEND\n").n_atoms == peptide.n_atoms


def test_backbone_only_is_refused() -> None:
    trace = lines_of(Peptide.from_sequence("AKS"), lambda line: named(line) == "CA")
    with pytest.raises(ValueError, match="lacks the backbone"):
        Peptide.from_pdb("\n".join(trace) + "\nEND\n")


def test_alternate_locations_take_the_most_occupied() -> None:
    lines = []
    for line in lines_of(Peptide.from_sequence("AS")):
        if named(line) == "OG":
            lines.append(line[:16] + "A" + line[17:54] + "  0.30" + line[60:])
            lines.append(line[:16] + "B" + line[17:30] + f"{float(line[30:38]) + 0.1:8.3f}" + line[38:54] + "  0.70")
        else:
            lines.append(line)
    read = Peptide.from_pdb("\n".join(lines) + "\nEND\n")
    built = Peptide.from_sequence("AS")
    index = atom_names(built).index("2 SER OG")
    np.testing.assert_allclose(read.positions[index, 0], built.positions[index, 0] + 0.01, atol=2e-4)
    assert read.notes == ("of atoms and residues with alternate locations the most occupied was taken (1 left out)",)


def water(serial: int) -> str:
    return f"HETATM{serial:5d}  O   TIP3W{serial % 10_000:4d}      30.000  30.000  30.000  1.00  0.00           O"


def test_solvated_system_says_which_atoms_it_took() -> None:
    lines = [*(water(i) for i in range(1, 4)), *lines_of(Peptide.from_sequence("AG")), water(99)]
    read = Peptide.from_pdb("\n".join(lines) + "\nEND\n")
    assert read.file_atoms is not None
    np.testing.assert_array_equal(read.file_atoms, np.arange(3, 3 + read.n_atoms))
    assert read.notes == ("4 molecules of solvent or ions were left out (TIP3)",)


def test_caps_of_charmm_that_are_part_of_a_residue() -> None:
    """CHARMM-GUI's patches ACE and CT3 give the caps' atoms the number of their neighbour."""
    names = {"ACE": {"CH3": "CAY", "H1": "HY1", "H2": "HY2", "H3": "HY3", "C": "CY", "O": "OY"}}
    names["NME"] = {"N": "NT", "H": "HNT", "C": "CAT", "H1": "HT1", "H2": "HT2", "H3": "HT3"}
    capped = (CASES.parents[1] / "golden" / "ace_a_nme.pdb").read_text()
    lines = []
    for line in capped.splitlines():
        if line.startswith("ATOM"):
            name = names.get(line[17:20], {}).get(named(line), named(line))
            lines.append(f"{line[:12]} {name:<3} ALA A   1{line[26:]}")
    read = Peptide.from_pdb("\n".join(lines) + "\nEND\n")
    assert read.sequence == "ACE-A-NME"
    assert atom_names(read) == atom_names(Peptide.from_pdb(capped))


def test_rings_breaks_and_bridges_are_named() -> None:
    peptide = Peptide.from_sequence("GAG")
    gap = "\n".join(lines_of(peptide, lambda line: line[22:26].strip() != "2")) + "\nEND\n"
    with pytest.raises(ValueError, match=r"chain break between GLY 1 and GLY 3 \(C–N"):
        Peptide.from_pdb(gap)
    x = peptide.positions.copy()
    index = {name: i for i, name in enumerate(atom_names(peptide))}
    x[index["3 GLY C"]] = x[index["1 GLY N"]] + [0.0, 0.0, 0.133]
    with pytest.raises(ValueError, match=r"cyclic peptide \(N of GLY 1 is bonded to C of GLY 3\)"):
        Peptide.from_pdb(peptide.to_pdb(x))
    bridge = Peptide.from_sequence("CC")
    x = bridge.positions.copy()
    names = atom_names(bridge)
    x[names.index("1 CYS SG")] = x[names.index("2 CYS SG")] + [0.0, 0.0, 0.205]
    with pytest.raises(ValueError, match="disulphide bridge between CYS 1 and CYS 2"):
        Peptide.from_pdb(bridge.to_pdb(x))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("DAL", "is a D-residue"),
        ("SEP", "phosphoserine"),
        ("NH2", "amide at the C terminus"),
        ("HSP", "doubly protonated histidine"),
        ("LIG", "non-standard residue, or a ligand"),
        ("DA ", "nucleic acid"),
    ],
)
def test_other_residues_are_named(name: str, message: str) -> None:
    text = Peptide.from_sequence("AA").to_pdb().replace("ALA A   2", f"{name} A   2")
    with pytest.raises(ValueError, match=message) as caught:
        Peptide.from_pdb(text)
    assert "\n" not in str(caught.value)


def test_compressed_and_damaged(tmp_path: Path) -> None:
    text = written(Peptide.from_sequence("AG"), "charmm")
    packed = gzip.compress(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    (tmp_path / "a.pdb.gz").write_bytes(packed)
    assert Peptide.from_pdb(tmp_path / "a.pdb.gz").sequence == "AG"
    (tmp_path / "b.pdb.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"b\.pdb\.gz is a damaged \.gz file"):
        Peptide.from_pdb(tmp_path / "b.pdb.gz")
    (tmp_path / "c.cif").write_text((KINDS / "AG.cif").read_text()[:900])
    with pytest.raises(ValueError, match=r"c\.cif"):
        Peptide.from_pdb(tmp_path / "c.cif")


def test_coordinates_in_nm_are_named() -> None:
    peptide = Peptide.from_sequence("AG")
    with pytest.raises(ValueError, match=r"has coordinates in nm \(0\.146 from N to CA\): PDB wants Å"):
        Peptide.from_pdb(peptide.to_pdb(peptide.positions / 10))


def joined(lines: list[str]) -> str:
    return "\n".join([*lines, "END", ""])


@pytest.mark.parametrize("name", ["NHE", "NH2"])
def test_an_amide_of_one_atom_is_no_ion(name: str) -> None:
    """As tleap and the PDB write it without hydrogens: sampled with a charged end, it would be another molecule."""
    lines = [line for line in lines_of(Peptide.from_sequence("AG")) if named(line)[0] != "H"]
    end = next(line for line in lines if named(line) == "OXT")
    amide = f"{end[:12]} N   {name} A   3{end[26:54]}  1.00  0.00           N"
    with pytest.raises(ValueError, match="amide at the C terminus"):
        Peptide.from_pdb(joined([line for line in lines if named(line) != "OXT"] + [amide]))


@pytest.mark.parametrize(("name", "element", "offset"), [("ZN", "ZN", 2.3), ("HG", "HG", 2.4), ("ACT", "C", 1.4)])
def test_what_is_bonded_is_not_left_out(name: str, element: str, offset: float) -> None:
    lines = lines_of(Peptide.from_sequence("CA"))
    sulphur = next(line for line in lines if named(line) == "SG")
    z = float(sulphur[46:54]) - offset
    other = f"HETATM  900 {element:>2}   {name:>3} A 101    {sulphur[30:46]}{z:8.3f}  1.00  0.00          {element:>2}"
    with pytest.raises(ValueError, match=rf"{name} 101 of .* is bonded to CYS 1 \({offset:.1f} Å\)"):
        Peptide.from_pdb(joined([*lines, other]))
    far = other[:46] + f"{z - 10:8.3f}" + other[54:]
    assert Peptide.from_pdb(joined([*lines, far])).sequence == "CA"


def test_two_residues_at_one_place_are_one() -> None:
    """Microheterogeneity: as alternate locations, in blocks or line by line."""
    lines = lines_of(Peptide.from_sequence("KHS"))
    shared = ("N", "H", "CA", "HA", "C", "O", "CB")
    here = [line[:16] + "A" + line[17:54] + "  0.60" for line in lines if line[17:20] == "HIS"]
    other = [line[:16] + "BALA" + line[20:54] + "  0.40" for line in here if named(line) in shared]
    before = [line for line in lines if line[17:20] == "LYS"]
    after = [line for line in lines if line[17:20] == "SER"]
    woven = [one for i, line in enumerate(here) for one in (line, *other[i : i + 1])]
    for middle in ([*here, *other], woven):
        read = Peptide.from_pdb(joined([*before, *middle, *after]))
        assert read.sequence == "KHS"
        assert read.notes == (
            "of atoms and residues with alternate locations the most occupied was taken (7 left out)",
        )


def test_hydrogens_at_the_origin_are_placed_anew() -> None:
    lines = []
    for line in lines_of(Peptide.from_sequence("AG")):
        if named(line)[0] == "H":
            lines.append(line[:30] + "   0.000   0.000   0.000" + line[54:])
        else:
            lines.append(line[:30] + f"{float(line[30:38]) + 20:8.3f}" + line[38:])
    read = Peptide.from_pdb(joined(lines))
    assert read.notes == (
        "10 hydrogens are on no atom, and were placed anew",
        "all hydrogens were missing and added (charged ends, HIS as HIE)",
    )
    bonds = [np.linalg.norm(read.positions[a.index] - read.positions[b.index]) for a, b in read.topology.bonds()]
    assert min(bonds) > 0.08
    assert max(bonds) < 0.2


@pytest.mark.parametrize(
    ("name", "message"),
    [("HISE", ""), ("HISH", "doubly protonated"), ("HISD", "hydrogen on ND1"), ("CYS2", "disulphide bridge")],
)
def test_names_of_four_letters(name: str, message: str) -> None:
    """As GROMACS writes them, over the column before the chain."""
    lines = lines_of(Peptide.from_sequence("AHA"))
    text = joined([line[:17] + name + line[21:] if line[17:20] == "HIS" else line for line in lines])
    if not message:
        assert Peptide.from_pdb(text).sequence == "AHA"
        return
    with pytest.raises(ValueError, match=message):
        Peptide.from_pdb(text)


def test_names_of_the_ends_of_amber() -> None:
    lines = lines_of(Peptide.from_sequence("SK"))
    text = joined([line[:17] + {"SER": "NSER", "LYS": "CLYS"}[line[17:20]] + line[21:] for line in lines])
    assert Peptide.from_pdb(text).sequence == "SK"


@pytest.mark.parametrize("numbers", [("  -1", "   0"), ("9998", "9999"), ("A000", "A001")])
def test_numbers_of_residues(numbers: tuple[str, str]) -> None:
    """Negative ones, large ones, and letters as hybrid-36 has them."""
    lines = lines_of(Peptide.from_sequence("AG"))
    text = joined([line[:22] + numbers[int(line[22:26]) - 1] + line[26:] for line in lines])
    read = Peptide.from_pdb(text)
    assert read.sequence == "AG"
    assert Peptide.from_pdb(read.to_pdb()).sequence == "AG"


def test_residues_and_atoms_in_any_order() -> None:
    built = Peptide.from_sequence("SYK")
    lines = lines_of(built)
    for shuffled in ([*lines[20:], *lines[:20]], [str(x) for x in np.random.default_rng(0).permutation(lines)]):
        read = Peptide.from_pdb(joined(shuffled))
        assert read.sequence == "SYK"
        assert read.notes == ("residues were put in the order of their numbers",)
        np.testing.assert_array_equal(read.iupac().positions, built.positions)
        assert read.file_atoms is not None
        xyz = np.array([[float(line[k : k + 8]) for k in (30, 38, 46)] for line in shuffled]) / 10
        np.testing.assert_allclose(xyz[read.file_atoms], read.positions, atol=1e-4)


def changed(line: str, low: int, text: str) -> str:
    return line[:low] + text + line[low + len(text) :]


@pytest.mark.parametrize("records", ["CONECT    1   23", "CONECT    2    3    4", "CONECT    1    1"])
def test_connections_change_nothing(records: str) -> None:
    """Wrong or missing, they are not read: bonds and internal coordinates are those of the residues."""
    lines, plain = lines_of(Peptide.from_sequence("SYK")), Peptide.from_sequence("SYK")
    read = Peptide.from_pdb(joined([*lines, records]))
    bonds = [[(a.index, b.index) for a, b in peptide.topology.bonds()] for peptide in (read, plain)]
    assert bonds[0] == bonds[1]
    for name, values in plain.internal().items():
        np.testing.assert_array_equal(read.internal()[name], values, err_msg=name)


@pytest.mark.parametrize("kind", ["pdb", "cif"])
@pytest.mark.parametrize(
    ("atom", "step_nm", "message"),
    [
        ("1 ALA CB", [0, 0, 0.9], r"CA-CB of ALA 1 of .*a\.{} is 0\.78 nm long \(0\.15 is usual\): check"),
        ("2 GLY O", [0.09, 0.09, 0], r"C-O of GLY 2 of .*a\.{} is 0\.\d\d nm long \(0\.14 is usual\): check"),
    ],
)
def test_bonds_far_from_usual_are_named(
    tmp_path: Path, kind: str, atom: str, step_nm: list[float], message: str
) -> None:
    peptide = Peptide.from_sequence("AG")
    x = peptide.positions.copy()
    x[atom_names(peptide).index(atom)] += step_nm
    path = tmp_path / f"a.{kind}"
    if kind == "pdb":
        path.write_text(peptide.to_pdb(x))
    else:
        with path.open("w") as file:
            app.PDBxFile.writeFile(peptide.topology, x * unit.nanometer, file)
    with pytest.raises(ValueError, match=message.format(kind)) as caught:
        Peptide.from_pdb(path)
    assert "\n" not in str(caught.value)


def test_crude_structures_are_read() -> None:
    """Bonds a fifth too long, hydrogens as X-ray sees them, atoms shaken by more than heat does."""
    peptide = Peptide.from_sequence("SYKW")
    shaken = peptide.positions + np.random.default_rng(0).normal(0, 0.008, peptide.positions.shape)
    for x in (1.2 * peptide.positions, 0.85 * peptide.positions, shaken):
        assert Peptide.from_pdb(peptide.to_pdb(x)).notes == ()


def test_atoms_at_one_place_are_named() -> None:
    peptide = Peptide.from_sequence("GG")
    x, names = peptide.positions.copy(), atom_names(peptide)
    near, far = names.index("1 GLY HA2"), names.index("1 GLY HA3")
    x[far] = x[near] + [0, 0, 0.01]
    with pytest.raises(ValueError, match="PDB text has HA2 of GLY 1 and HA3 of GLY 1 at one place: check the file"):
        Peptide.from_pdb(peptide.to_pdb(x))


def test_no_coordinates_and_no_hydrogens() -> None:
    """Nothing can be added to atoms that are all at one point."""
    peptide = Peptide.from_sequence("CC")
    lines = [line for line in peptide.to_pdb(0 * peptide.positions).splitlines() if line.startswith("ATOM")]
    assert Peptide.from_pdb(joined(lines)).sequence == "CC"
    with pytest.raises(ValueError, match="has no coordinates, and lacks atoms"):
        Peptide.from_pdb(joined([line for line in lines if named(line)[0] != "H"]))


def test_sulphurs_that_openmm_would_bond_are_a_bridge() -> None:
    """Read as one, it would lack both of its HG."""
    peptide = Peptide.from_sequence("CC")
    x, names = peptide.positions.copy(), atom_names(peptide)
    x[names.index("1 CYS SG")] = x[names.index("2 CYS SG")] + [0.0, 0.0, 0.27]
    lines = [line for line in peptide.to_pdb(x).splitlines() if line.startswith("ATOM") and named(line)[0] != "H"]
    with pytest.raises(ValueError, match="disulphide bridge between CYS 1 and CYS 2"):
        Peptide.from_pdb(joined(lines))


@pytest.mark.parametrize("element", ["FE", " N", " H"])
def test_elements_that_contradict_names(element: str) -> None:
    lines = [
        changed(line, 76, element) if named(line) == "CA" else line for line in lines_of(Peptide.from_sequence("AG"))
    ]
    with pytest.raises(ValueError, match=f"ALA 1 of PDB text has atom CA of element {element.strip()}: correct"):
        Peptide.from_pdb(joined(lines))


@pytest.mark.parametrize("element", ["CA", "  ", " X"])
def test_elements_that_say_little_are_taken_from_names(element: str) -> None:
    """Programs write the first letters of a name as element, or nothing; names that begin a column early, too."""
    lines = []
    for line in lines_of(Peptide.from_sequence("AG")):
        text = changed(line, 76, element) if named(line) == "CA" or element != "CA" else line
        lines.append(changed(text, 12, f"{named(line):<4}") if element == "  " else text)
    read = Peptide.from_pdb(joined(lines))
    assert [a.element.symbol for a in read.topology.atoms()] == [a.name[0] for a in read.topology.atoms()]


@pytest.mark.parametrize("copies", [1, 90_000])
def test_atoms_that_are_there_twice(copies: int) -> None:
    lines = lines_of(Peptide.from_sequence("AG"))
    twice = next(line for line in lines if named(line) == "CB")
    message = "has atom CB more than once: keep one of each" if copies == 1 else "has 90012 atoms, more than any"
    with pytest.raises(ValueError, match=f"ALA 1 of PDB text {message}"):
        Peptide.from_pdb(joined([*lines, *copies * [twice]]))


@pytest.mark.parametrize("kind", ["pdb", "cif", "pdb.gz"])
def test_files_that_are_too_large_are_refused_before_they_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "pdb.gz":
        path.write_bytes(gzip.compress(bytes(2 * MAX_BYTES), compresslevel=1))
        message = "is too large: give the structure of one peptide"
    else:
        text = (KINDS / "AG.cif").read_text() if kind == "cif" else Peptide.from_sequence("AG").to_pdb()
        atom = next(line for line in text.splitlines() if line.startswith("ATOM")) + "\n"
        path.write_text(text.replace(atom, 200_000 * atom))
        message = "has more than 99999 atoms: give one peptide, and its solvent"
    start = time.process_time()
    with pytest.raises(ValueError, match=rf"^.*a\.{kind} {message}$"):
        Peptide.from_pdb(path)
    assert time.process_time() - start < 6  # seconds: a fifth of it, on an idle machine


def test_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder: give a file in it"):
        Peptide.from_pdb(tmp_path)
