"""Kinds of residues that the shipped flows do not know, each refused by its name."""

import gemmi

from .residues import STATES

POINTER = (
    "the shipped flow knows linear peptides of the twenty L-residues, HID, HIP, ASH and GLH (charged ends, or ACE and "
    "NME caps); jobs/fit.py makes a flow of any molecule, see docs/howto/any_molecule.md"
)
ASK = "states=True reads it, as the jobs do: flows of vocabulary 2 know it"

_STATES = {
    "HID": "histidine with its hydrogen on ND1 (HID)", "HIP": "doubly protonated histidine (HIP)",
    "ASH": "neutral aspartic acid (ASH)", "GLH": "neutral glutamic acid (GLH)", "LYN": "neutral lysine (LYN)",
    "CYX": "a cysteine of a disulphide bridge (CYX)", "CYM": "a deprotonated cysteine (CYM)",
    "TYM": "a deprotonated tyrosine (TYM)", "ARN": "neutral arginine (ARN)",
}  # fmt: skip
_ALIASES = {
    "HISD": "HID", "HISA": "HID", "HISH": "HIP", "HIS1": "HID", "HIS2": "HIP", "ASPP": "ASH", "ASPH": "ASH",
    "GLUP": "GLH", "GLUH": "GLH", "HSD": "HID", "HSP": "HIP", "LSN": "LYN", "LYSN": "LYN", "CYS2": "CYX", "ARGN": "ARN",
}  # fmt: skip
_MODIFIED = {
    "MSE": "selenomethionine: give MET", "SEP": "phosphoserine", "TPO": "phosphothreonine", "PTR": "phosphotyrosine",
    "HYP": "hydroxyproline", "PCA": "pyroglutamic acid", "AIB": "aminoisobutyric acid", "ORN": "ornithine",
    "NLE": "norleucine", "SEC": "selenocysteine", "PYL": "pyrrolysine", "SAR": "sarcosine",
    "NH2": "an amide at the C terminus: the cap that can be had is NME", "NHE": "an amide at the C terminus: the cap "
    "that can be had is NME", "FOR": "a formyl cap: the cap that can be had is ACE",
}  # fmt: skip
# Hydrogens that only another state of protonation has.
ACID_HYDROGENS = {"HIS": {"HD1"}, "ASP": {"HD1", "HD2"}, "GLU": {"HE1", "HE2"}}
# The wwPDB's components of the mirrored residues.
_D_RESIDUES = set("DAL DAR DSG DAS DCY DGN DGL DHI DIL DLE DLY MED DPN DPR DSN DTH DTR DTY DVA".split())  # noqa: SIM905


def canonical_state(name: str) -> str:
    """AMBER's name of a state of protonation that other programs call otherwise; other names as they are."""
    return _ALIASES.get(name, name)


def is_modified(name: str) -> bool:
    """Tell a residue, or a cap, that is part of a chain but not of the twenty, however few atoms of it there are."""
    return name in _MODIFIED or name in _STATES or name in _ALIASES or name in _D_RESIDUES


def refuse_residue(name: str, where: str) -> None:
    """Raises: ValueError that says which kind of residue `name` is, and what can be done."""
    state = _ALIASES.get(name, name)
    if state in _STATES:
        raise ValueError(f"{where} is {_STATES[state]}: {ASK if state in STATES else POINTER}; HIS means HIE")
    if name in _D_RESIDUES:
        raise ValueError(f"{where} is a D-residue: {POINTER}")
    if name in _MODIFIED:
        raise ValueError(f"{where} is a non-standard residue ({_MODIFIED[name]}): {POINTER}")
    known = gemmi.find_tabulated_residue(name)
    kind = "nucleic acid" if known.is_nucleic_acid() else "non-standard residue, or a ligand"
    raise ValueError(f"{where} is a {kind}: {POINTER}")
