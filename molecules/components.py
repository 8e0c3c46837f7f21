"""The wwPDB's components of the residues: names, order and coordinates of their atoms.

`python -m boltzray.molecules.components` (needs biotite) makes components.json of the Chemical Component Dictionary,
which is in the public domain (CC0). The coordinates are those of its model structures: its ideal ones, made by a
program, exchange the names of prochiral hydrogens of ARG, ILE, LEU and MET, and those of NH1 and NH2, against IUPAC's
(`findings/ideal_coordinates.sh`).
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .residues import ONE_LETTER
from .storage import replacing

FILE = Path(__file__).parent / "components.json"
Component = dict[str, npt.NDArray[np.float64]]

# Atoms that the dictionary's components lack, which are molecules of their own: the third hydrogen of a charged end.
_WITHOUT_COORDINATES = {"H2", "H3"}


@cache
def components() -> dict[str, Component]:
    """Coordinates (3,) in Å of each atom, by residue and by IUPAC name, in the standard order of the atoms.

    Atoms that the component of a free residue lacks, such as the third hydrogen of a charged end, are all NaN.
    """
    table = json.loads(FILE.read_text())["components"]
    nothing = [np.nan] * 3
    return {
        residue: {name: np.array(xyz or nothing, np.float64) for name, xyz in atoms.items()}
        for residue, atoms in table.items()
    }


def main() -> None:
    """Write components.json, atoms in the order of the structures that the product builds."""
    import biotite
    from biotite.structure.info import ccd as dictionary

    from .peptide import Peptide

    atoms = dictionary.get_ccd()["chem_comp_atom"]
    column = {key: atoms[key].as_array(str) for key in ("comp_id", "atom_id", *(f"model_Cartn_{x}" for x in "xyz"))}
    found = {}
    for name, letter in sorted(ONE_LETTER.items()):
        rows = np.flatnonzero(column["comp_id"] == name)
        model = {column["atom_id"][i]: [float(column[f"model_Cartn_{x}"][i]) for x in "xyz"] for i in rows}
        if name == "ASN":  # its model has HD21 as Z; IUPAC, and the dictionary's GLN, have E
            model["HD21"], model["HD22"] = model["HD22"], model["HD21"]
        order: dict[str, list[float] | None] = {}
        for residue in Peptide.from_sequence(letter * 3).topology.residues():
            for atom in residue.atoms():
                order.setdefault(atom.name, None if atom.name in _WITHOUT_COORDINATES else model[atom.name])
        found[name] = order
    source = f"wwPDB Chemical Component Dictionary, model coordinates in angstrom, by biotite {biotite.__version__}"
    text = ",\n".join(
        f'  "{residue}": {{\n' + ",\n".join(f'   "{a}": {json.dumps(v)}' for a, v in atoms.items()) + "\n  }"
        for residue, atoms in found.items()
    )
    with replacing(FILE) as temporary:
        temporary.write_text(f'{{\n "source": "{source}",\n "components": {{\n{text}\n }}\n}}\n')


if __name__ == "__main__":
    main()
