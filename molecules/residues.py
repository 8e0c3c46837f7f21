"""Atom vocabularies and visiting orders of the twenty amino acids. Standard library and numpy only.

Atom names are PDB v3 as OpenMM's `PDBFile` gives them; HIS means HIE. Vocabulary 1 is that of the public weights;
vocabulary 2 adds the caps and the states of protonation that flows trained here can learn.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

ONE_LETTER = {
    "ALA": "A", "ARG": "R", "ASN": "N", "ASP": "D", "CYS": "C",
    "GLN": "Q", "GLU": "E", "GLY": "G", "HIS": "H", "ILE": "I",
    "LEU": "L", "LYS": "K", "MET": "M", "PHE": "F", "PRO": "P",
    "SER": "S", "THR": "T", "TRP": "W", "TYR": "Y", "VAL": "V",
}  # fmt: skip
CAPS = {"ACE": {"H1", "CH3", "H2", "H3", "C", "O"}, "NME": {"N", "H", "C", "H1", "H2", "H3"}}  # at either end
LETTERS = "".join(sorted(ONE_LETTER.values()))
# States of protonation by AMBER's names: the residue, and the hydrogens that it gains and loses.
STATES: dict[str, tuple[str, set[str], set[str]]] = {
    "HID": ("HIS", {"HD1"}, {"HE2"}),
    "HIP": ("HIS", {"HD1"}, set()),
    "ASH": ("ASP", {"HD2"}, set()),
    "GLH": ("GLU", {"HE2"}, set()),
}

# Embedding indices; 0 is padding. The order is part of the public weights, which end with the twenty.
RESIDUE_INDEX = {name: i for i, name in enumerate([*ONE_LETTER, *CAPS, *STATES], start=1)}
PUBLIC_RESIDUES = len(ONE_LETTER)
VOCABULARIES = (1, 2)
_ATOM_NAMES = (
    "C CA CB CD CD1 CD2 CE CE1 CE2 CE3 CG CG1 CG2 CH2 CZ CZ2 CZ3 "
    "H HA HB HD HD1 HD2 HE HE1 HE2 HE3 HG HG1 HG2 HH HH1 HH2 HZ HZ2 HZ3 "
    "N ND1 ND2 NE NE1 NE2 NH1 NH2 NZ O OD OE OG OG1 OH OXT SD SG "
    "CH3 HM"  # vocabulary 2: a cap's methyl group
)
ATOM_INDEX = {name: i for i, name in enumerate(_ATOM_NAMES.split(), start=1)}

_N_SIDE = ["N", "H", "H2", "H3"]
_C_SIDE = ["C", "O", "OXT"]
_ALPHA = ["CA", "HA", "HA2", "HA3"]
HEAD = {"n2c": [*_N_SIDE, *_ALPHA], "c2n": ["OXT", "C", "O", *_ALPHA]}
TAIL = {"n2c": _C_SIDE, "c2n": _N_SIDE}

SIDE_CHAIN = {
    name: atoms.split()
    for name, atoms in {
        "ALA": "CB HB1 HB2 HB3",
        "ARG": "CB HB2 HB3 CG HG2 HG3 CD HD2 HD3 NE HE CZ NH1 HH11 HH12 NH2 HH21 HH22",
        "ASN": "CB HB2 HB3 CG OD1 ND2 HD21 HD22",
        "ASP": "CB HB2 HB3 CG OD1 OD2",
        "CYS": "CB HB2 HB3 SG HG",
        "GLN": "CB HB2 HB3 CG HG2 HG3 CD OE1 NE2 HE21 HE22",
        "GLU": "CB HB2 HB3 CG HG2 HG3 CD OE1 OE2",
        "GLY": "",
        "HIS": "CB HB2 HB3 CG ND1 CE1 HE1 NE2 HE2 CD2 HD2",
        "ILE": "CB HB CG2 HG21 HG22 HG23 CG1 HG12 HG13 CD1 HD11 HD12 HD13",
        "LEU": "CB HB2 HB3 CG HG CD1 HD11 HD12 HD13 CD2 HD21 HD22 HD23",
        "LYS": "CB HB2 HB3 CG HG2 HG3 CD HD2 HD3 CE HE2 HE3 NZ HZ1 HZ2 HZ3",
        "MET": "CB HB2 HB3 CG HG2 HG3 SD CE HE1 HE2 HE3",
        "PHE": "CB HB2 HB3 CG CD1 HD1 CE1 HE1 CZ HZ CE2 HE2 CD2 HD2",
        "PRO": "CB HB2 HB3 CG HG2 HG3 CD HD2 HD3",
        "SER": "CB HB2 HB3 OG HG",
        "THR": "CB HB OG1 HG1 CG2 HG21 HG22 HG23",
        "TRP": "CB HB2 HB3 CG CD1 HD1 NE1 HE1 CE2 CZ2 HZ2 CH2 HH2 CZ3 HZ3 CE3 HE3 CD2",
        "TYR": "CB HB2 HB3 CG CD1 HD1 CE1 HE1 CZ OH HH CE2 HE2 CD2 HD2",
        "VAL": "CB HB CG1 HG11 HG12 HG13 CG2 HG21 HG22 HG23",
    }.items()
}
# The variant walks a ring, or the branches, the other way round.
SIDE_CHAIN_VARIANT = SIDE_CHAIN | {
    name: atoms.split()
    for name, atoms in {
        "HIS": "CB HB2 HB3 CG CD2 HD2 NE2 HE2 CE1 HE1 ND1",
        "ILE": "CB HB CG1 HG12 HG13 CD1 HD11 HD12 HD13 CG2 HG21 HG22 HG23",
        "LEU": "CB HB2 HB3 CG HG CD2 HD21 HD22 HD23 CD1 HD11 HD12 HD13",
        "PHE": "CB HB2 HB3 CG CD2 HD2 CE2 HE2 CZ HZ CE1 HE1 CD1 HD1",
        "PRO": "CD HD2 HD3 CG HG2 HG3 CB HB2 HB3",
        "THR": "CB HB CG2 HG21 HG22 HG23 OG1 HG1",
        "TRP": "CB HB2 HB3 CG CD2 CE3 HE3 CZ3 HZ3 CH2 HH2 CZ2 HZ2 CE2 NE1 HE1 CD1 HD1",
        "TYR": "CB HB2 HB3 CG CD2 HD2 CE2 HE2 CZ OH HH CE1 HE1 CD1 HD1",
        "VAL": "CB HB CG2 HG21 HG22 HG23 CG1 HG11 HG12 HG13",
    }.items()
}
for _chains in (SIDE_CHAIN, SIDE_CHAIN_VARIANT):
    _chains |= {state: [*_chains[usual], *sorted(gained)] for state, (usual, gained, _) in STATES.items()}
    _chains |= {"ACE": ["CH3", "H1"], "NME": ["H1"]}  # the rest have names that the chain's ends have, too
SIDE_CHAINS = {"standard": SIDE_CHAIN, "variant": SIDE_CHAIN_VARIANT}
# Ring hydrogens keep their number in the atom vocabulary.
_NUMBERED_RING = {"HIS", "HID", "HIP", "PHE", "TRP", "TYR"}
_METHYL = {"ACE": "CH3", "NME": "C"}  # of the caps


def expected_atoms(residue: str, *, first: bool, last: bool) -> set[str]:
    """Atom names of a residue in a zwitterionic peptide, or of a cap."""
    if residue in CAPS:
        return set(CAPS[residue])
    if residue in STATES:
        usual, gained, lost = STATES[residue]
        return (expected_atoms(usual, first=first, last=last) | gained) - lost
    atoms = {"N", "CA", "C", "O", *SIDE_CHAIN[residue]}
    atoms |= {"HA2", "HA3"} if residue == "GLY" else {"HA"}
    if residue != "PRO":
        atoms.add("H")
    if first:
        atoms |= {"H2", "H3"}
    if last:
        atoms.add("OXT")
    return atoms


def atom_type(residue: str, atom: str) -> int:
    """Vocabulary index of an atom, 1 to 54, and to 56 of caps: equivalent hydrogens and oxygens share one."""
    if residue in CAPS and (atom == _METHYL[residue] or (atom[0] == "H" and atom != "H")):
        return ATOM_INDEX["HM" if atom[0] == "H" else "CH3"]
    ring_hydrogen = residue in _NUMBERED_RING and atom[:2] in ("HD", "HE", "HZ", "HH")
    numbered_hydrogen = atom[0] == "H" and atom[-1] in "123" and not ring_hydrogen
    if numbered_hydrogen or atom[:2] in ("OD", "OE"):
        atom = atom[:-1]
    return ATOM_INDEX[atom]


def encode(residues: Sequence[str], names: Sequence[str], residue_of: Sequence[int]) -> dict[str, IntArray]:
    """Encodings of a peptide's atoms, in the order in which `names` lists them.

    `residues` are three-letter names from the N terminus; `residue_of` says which one an atom belongs to.
    """
    return {
        "atom_type": np.array([atom_type(residues[r], a) for a, r in zip(names, residue_of, strict=True)], np.int64),
        "aa_type": np.array([RESIDUE_INDEX[residues[r]] for r in residue_of], np.int64),
        "aa_pos": np.array(residue_of, np.int64) + 1,
        "seq_len": np.array([len(residues)], np.int64),
    }


def vocabulary_of(residues: Sequence[str]) -> int:
    """The first vocabulary that has all these residues; 0 where none has."""
    if any(name not in RESIDUE_INDEX for name in residues):
        return 0
    return 1 if all(name in ONE_LETTER for name in residues) else 2


def amber_order(residues: Sequence[str], names: Sequence[str], residue_of: Sequence[int]) -> IntArray:
    """Indices (N,) into `names` in the order of ff14SB's residue templates, in which AmberTools writes structures.

    Raises: ValueError for residues outside the twenty, and for atoms that their templates lack.
    """
    if unknown := set(residues) - ONE_LETTER.keys():
        raise ValueError(
            f"{min(unknown)} has no place in AMBER's order here: give peptides of the twenty, without caps"
        )
    index = {(r, a): i for i, (a, r) in enumerate(zip(names, residue_of, strict=True))}
    visit = []
    for r, name in enumerate(residues):
        chain = (SIDE_CHAIN_VARIANT if name in ("PRO", "THR") else SIDE_CHAIN)[name]
        middle = (*chain, *_ALPHA) if name == "PRO" else (*_ALPHA, *chain)
        visit += [(r, a) for a in (*_N_SIDE, *middle, *_C_SIDE)]
    if left := index.keys() - set(visit):
        r, atom = min(left)
        raise ValueError(
            f"{atom} of {residues[r]} {r + 1} has no place in AMBER's order here: name atoms as the PDB does"
        )
    if len(index) < len(names):
        raise ValueError("two atoms of a residue have one name, and AMBER's order goes by names: give each its own")
    return np.array([index[key] for key in visit if key in index], np.int64)


def orderings(residues: Sequence[str], names: Sequence[str], residue_of: Sequence[int]) -> dict[str, IntArray]:
    """The sixteen orders in which a flow may visit the atoms: indices into `names`."""
    index = {(r, a): i for i, (a, r) in enumerate(zip(names, residue_of, strict=True))}
    result = {}
    for direction in ("n2c", "c2n"):
        walk = list(enumerate(residues))
        if direction == "c2n":
            walk.reverse()
        for side, chains in SIDE_CHAINS.items():
            head, tail = HEAD[direction], TAIL[direction]
            whole = list(dict.fromkeys((r, a) for r, name in walk for a in (*head, *chains[name], *tail)))
            backbone = [(r, a) for r, _ in walk for a in (*head, *tail) if a[0] != "H"]
            on_backbone = set(backbone)
            for style, visit in {
                "residue-by-residue": whole,
                # First the heavy backbone; then what is left, in the same residue-wise order.
                "backbone-first": [*backbone, *(key for key in whole if key not in on_backbone)],
            }.items():
                order = np.array([index[key] for key in visit if key in index], np.int64)
                if len(order) != len(names):
                    raise ValueError("the atoms are not those of a peptide: check them with expected_atoms first")
                result[f"{direction}_{style}_{side}"] = order
                result[f"{direction}_{style}_{side}_flip"] = order[::-1].copy()
    return result
