"""Names of other programs, for structures of our own: CHARMM, GROMACS, tleap and version 2 of the PDB."""

from collections.abc import Callable

from boltzray.molecules import Peptide

METHYLENES = {
    "HB": "ARG ASN ASP CYS GLN GLU HIS LEU LYS MET PHE PRO SER TRP TYR".split(),  # noqa: SIM905
    "HG": "ARG GLN GLU LYS MET PRO".split(),  # noqa: SIM905
    "HD": "ARG LYS PRO".split(),  # noqa: SIM905
    "HE": ["LYS"],
}
NUMBERED_RINGS = ("HIS", "PHE", "TRP", "TYR")


def _from_one(residue: str) -> dict[str, str]:
    """Hydrogens of CH2 groups counted from 1."""
    names = {f"{p}{n}": f"{p}{n - 1}" for p, rs in METHYLENES.items() if residue in rs for n in (2, 3)}
    names |= {"HA2": "HA1", "HA3": "HA2"} if residue == "GLY" else {}
    return names | ({"HG12": "HG11", "HG13": "HG12"} if residue == "ILE" else {})


ISOLEUCINE = {"CD1": "CD", "HD11": "HD1", "HD12": "HD2", "HD13": "HD3"}


def charmm(residue: str, atom: str, first: bool, last: bool) -> str:
    names = _from_one(residue) | (ISOLEUCINE if residue == "ILE" else {})
    names |= {"HG": "HG1"} if residue in ("SER", "CYS") else {}
    names |= {"H": "HT1" if first else "HN", "OXT": "OT2"}
    names |= {"H2": "HT1" if residue == "PRO" else "HT2", "H3": "HT2" if residue == "PRO" else "HT3"} if first else {}
    return (names | ({"O": "OT1"} if last else {})).get(atom, atom)


def gromacs(residue: str, atom: str, first: bool, last: bool) -> str:
    names = _from_one(residue) | (ISOLEUCINE if residue == "ILE" else {}) | {"OXT": "OC2"}
    if first:
        names |= {"H2": "H1", "H3": "H2"} if residue == "PRO" else {"H": "H1"}
    return (names | ({"O": "OC1"} if last else {})).get(atom, atom)


def tleap(residue: str, atom: str, first: bool, last: bool) -> str:
    return "H1" if first and atom == "H" else atom


def pdb_v2(residue: str, atom: str, first: bool, last: bool) -> str:
    atom = _from_one(residue).get(atom, atom)
    if first and atom in ("H", "H2", "H3"):
        return {"H": "1H", "H2": "2H", "H3": "3H"}[atom]
    ring = residue in NUMBERED_RINGS and atom[1:2] in tuple("DEZH")
    return atom[-1] + atom[:-1] if atom[0] == "H" and len(atom) > 2 and atom[-1] in "123" and not ring else atom


def own(residue: str, atom: str, first: bool, last: bool) -> str:
    return atom


STYLES: dict[str, tuple[Callable[[str, str, bool, bool], str], str]] = {
    "charmm": (charmm, "HSE"),
    "gromacs": (gromacs, "HIE"),
    "tleap": (tleap, "HIE"),
    "pdb_v2": (pdb_v2, "HIS"),
    "own": (own, "HIS"),
}


def written(peptide: Peptide, style: str, *, reordered: bool = False) -> str:
    """PDB text of a peptide in another program's names; `reordered`: and in the order in which pdb2gmx has atoms."""
    rename, histidine = STYLES[style]
    lines = [line for line in peptide.to_pdb().splitlines() if line.startswith("ATOM")]
    n = max(int(line[22:26]) for line in lines)
    if reordered:
        place = {
            "N": 0,
            "H": 1,
            "H1": 1,
            "H2": 1,
            "H3": 1,
            "CA": 2,
            "HA": 3,
            "HA2": 3,
            "HA3": 3,
            "C": 5,
            "O": 6,
            "OXT": 7,
        }
        lines.sort(key=lambda line: (int(line[22:26]), place.get(line[12:16].strip(), 4)))
    result = []
    for line in lines:
        residue, atom, number = line[17:20].strip(), line[12:16].strip(), int(line[22:26])
        name = rename(residue, atom, number == 1, number == n)
        label = f" {name:<3}" if len(name) < 4 and not name[0].isdigit() else f"{name:<4}"
        result.append(line[:12] + label + line[16] + (histidine if residue == "HIS" else residue) + line[20:])
    return "\n".join([*result, "TER", "END", ""])
