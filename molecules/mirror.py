"""Peptides of D-residues alone: the mirror images of those that flows know.

Without terms that know left from right, such as CMAP, a molecule and its mirror image have one energy; so the L-peptide
is sampled, and its conformations are mirrored.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm

from .forcefield import DEFAULT_FORCEFIELD, create_system
from .molecule import Molecule, build_topology
from .peptide import Peptide
from .structure_text import file_bytes

D_NAMES = {
    "DAL": "ALA", "DAR": "ARG", "DSG": "ASN", "DAS": "ASP", "DCY": "CYS", "DGN": "GLN", "DGL": "GLU", "DHI": "HIS",
    "DIL": "ILE", "DLE": "LEU", "DLY": "LYS", "MED": "MET", "DPN": "PHE", "DPR": "PRO", "DSN": "SER", "DTH": "THR",
    "DTR": "TRP", "DTY": "TYR", "DVA": "VAL",
}  # fmt: skip
NOTE = "all residues are D: the L-peptide is sampled, whose mirror image has the same energy, and mirrored"


@dataclass(frozen=True, kw_only=True, eq=False)
class MirrorImage(Molecule):
    """A peptide of D-residues, atoms in the order of its file; `left`: the L-peptide in the same order."""

    left: Peptide

    @classmethod
    def of(cls, left: Peptide, forcefield: str = DEFAULT_FORCEFIELD) -> "MirrorImage":
        """Mirror an L-peptide."""
        codes = {usual: name for name, usual in D_NAMES.items()}
        residues = list(left.topology.residues())
        atoms = [[atom.name, atom.element.symbol, atom.residue.index] for atom in left.topology.atoms()]
        return cls(
            sequence=f"D-{left.sequence}",
            positions=-left.positions,
            topology=build_topology(
                atoms,
                [[codes.get(residue.name, residue.name), residue.id] for residue in residues],
                [[a.index, b.index] for a, b in left.topology.bonds()],
            ),
            encodings={},
            orderings={},
            notes=(*left.notes, NOTE),
            file_atoms=left.file_atoms,
            system_xml=openmm.XmlSerializer.serialize(create_system(left, forcefield)),
            tables={},
            left=left,
        )


def read_mirror_image(path: Path, forcefield: str = DEFAULT_FORCEFIELD) -> MirrorImage | None:
    """Read a PDB file of D-residues, under their own names or those of L-residues; None for anything else."""
    lines = []
    for line in file_bytes(path).decode(errors="replace").splitlines():
        if line.startswith(("ATOM", "HETATM")):
            try:
                xyz = [-float(line[k : k + 8]) for k in (30, 38, 46)]
            except ValueError:
                return None
            name = D_NAMES.get(line[17:20], line[17:20])
            line = f"ATOM  {line[6:17]}{name}{line[20:30]}{''.join(f'{value:8.3f}' for value in xyz)}{line[54:]}"
        lines.append(line)
    try:
        left = Peptide.from_pdb("\n".join([*lines, ""]))
    except ValueError:
        return None
    chiral = any(residue.name != "GLY" for residue in left.topology.residues())
    return MirrorImage.of(left, forcefield) if chiral and np.ptp(left.positions) > 0 else None
