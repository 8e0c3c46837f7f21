"""Make components.json of the wwPDB's components: names, order and coordinates of the residues' atoms.

`python -m boltzray.molecules.components` (needs biotite) reads the Chemical Component Dictionary, which is in the
public domain (CC0). The coordinates are those of its model structures: its ideal ones, made by a program, have names of
prochiral hydrogens of ARG, ILE, LEU and MET, and of NH1 and NH2, the other way round than IUPAC
(`findings/ideal_coordinates.sh`).
"""

import json

import numpy as np

from .peptide import Peptide
from .residues import ONE_LETTER
from .stereo import COMPONENTS
from .storage import replacing

# Atoms that the dictionary's components lack, which are molecules of their own: the third hydrogen of a charged end.
_WITHOUT_COORDINATES = {"H2", "H3"}


def main() -> None:
    """Write components.json, atoms in the order of the structures that the product builds."""
    import biotite
    from biotite.structure.info import ccd as dictionary

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
    with replacing(COMPONENTS) as temporary:
        temporary.write_text(f'{{\n "source": "{source}",\n "components": {{\n{text}\n }}\n}}\n')


if __name__ == "__main__":
    main()
