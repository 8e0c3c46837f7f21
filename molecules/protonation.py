"""States of protonation of the residues of a file, told by names or by hydrogens."""

from .file_residue import FileResidue
from .kinds import canonical_state
from .residues import STATES

_OXYGENS = {"ASP": ("OD1", "OD2"), "GLU": ("OE1", "OE2"), "ASH": ("OD1", "OD2"), "GLH": ("OE1", "OE2")}


def state_of(residue: FileResidue) -> str:
    """The name of a residue, or of the state of protonation that it is in (`residues.STATES`).

    Of a neutral acid whose hydrogen is on the first oxygen the names of the two are exchanged: AMBER has it on the
    second.
    """
    name = canonical_state(residue.name)
    on = {parent: found for parent, found in residue.hydrogens().items() if parent}
    if name == "HIS":
        delta = "HD1" in residue.names or _unnamed(residue, on.get("ND1", []))
        epsilon = "HE2" in residue.names or _unnamed(residue, on.get("NE2", []))
        return ("HIP" if epsilon else "HID") if delta else name
    if name in _OXYGENS:
        first, second = _OXYGENS[name]
        acid = {"ASP": "ASH", "GLU": "GLH"}.get(name, name)
        hydrogens = [f"H{oxygen[1:]}" for oxygen in (first, second)]  # HD1, HD2; HE1, HE2
        if first in on or (second not in on and hydrogens[0] in residue.names):
            swap = {first: second, second: first, hydrogens[0]: hydrogens[1]}
            residue.names = [swap.get(atom, atom) for atom in residue.names]
            return acid
        return acid if second in on or hydrogens[1] in residue.names else name
    return name if name in STATES else residue.name


def _unnamed(residue: FileResidue, hydrogens: list[int]) -> bool:
    """Tell hydrogens that do not have the name of one on either nitrogen of histidine."""
    return any(residue.names[i] not in ("HD1", "HE2") for i in hydrogens)
