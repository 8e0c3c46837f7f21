"""A peptide: its atoms, their positions, and the encodings and orderings that a flow takes."""

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from openmm import app, unit

from . import residues as tables
from . import zmatrix
from .build import build_structure
from .sequences import check_sequence, label

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Peptide:
    """One peptide chain, atoms in PDB order.

    `sequence`: one-letter codes; residues outside the twenty by name, as in `ACE-AAA-NME`.
    `encodings` and `orderings` are empty when the vocabulary does not cover the peptide (caps).

    Shape: positions (N, 3); encodings (N,), `seq_len` (1,); orderings (N,), int64.
    Units: nm, at the precision of a PDB file (1e-4).
    """

    sequence: str
    positions: FloatArray
    topology: app.Topology
    encodings: dict[str, tables.IntArray]
    orderings: dict[str, tables.IntArray]

    @property
    def n_atoms(self) -> int:
        """Number of atoms, hydrogens included."""
        return len(self.positions)

    @cached_property
    def atoms_sha256(self) -> str:
        """Fingerprint of the atoms' names and residues in their order: the same for arrays that fit each other."""
        atoms = " ".join(f"{a.residue.index}:{a.residue.name}:{a.name}" for a in self.topology.atoms())
        return hashlib.sha256(atoms.encode()).hexdigest()

    @cached_property
    def internal(self) -> dict[str, np.ndarray]:
        """Z-matrix, and usual bonds, angles and torsions: see `molecules.zmatrix`.

        Shape: z_matrix, mean, scale (N, 3); rotatable, level, hydrogen_permutation (N,). Units: nm, rad.
        Raises: ValueError for residues outside the twenty.
        """
        if not self.encodings:
            raise ValueError(f"{self.sequence} has residues whose usual geometry is not known: use the twenty, no caps")
        names = [(atom.residue.index, atom.name) for atom in self.topology.atoms()]
        bonds = [(bond[0].index, bond[1].index) for bond in self.topology.bonds()]
        z_matrix, rotatable = zmatrix.build_z_matrix(names, bonds)
        mean, scale = zmatrix.usual_values([r.name for r in self.topology.residues()], names, rotatable)
        torsion = zmatrix.torsions(self.positions, z_matrix)
        return {
            "z_matrix": z_matrix,
            "rotatable": rotatable,
            "level": zmatrix.levels(z_matrix),
            "hydrogen_permutation": zmatrix.hydrogen_permutation(names, z_matrix, torsion),
            "mean": mean,
            "scale": scale,
        }

    @classmethod
    def from_sequence(cls, sequence: str, max_residues: int | None = None) -> "Peptide":
        """Build the extended L-peptide, HIS as HIE, ends charged or capped. The same result in every process.

        `sequence`: as `molecules.sequences.parse_sequence` reads it, `ARIP`, `Ala-Gly`, `ACE-A-NME`.
        Raises: ValueError for what is not read, fewer than two residues, or more than `max_residues`.
        """
        name = check_sequence(sequence, max_residues)
        topology, positions = build_structure(name)
        return _assemble(topology, positions, source=name)

    @classmethod
    def from_pdb(cls, pdb: str | Path) -> "Peptide":
        """Read one peptide chain, all hydrogens present, from a PDB file or from its text.

        Raises: FileNotFoundError; ValueError for anything but one complete chain of L-residues.
        """
        is_text = isinstance(pdb, str) and ("\n" in pdb or pdb.startswith(("ATOM", "HETATM")))
        text, source = (str(pdb), "PDB text") if is_text else (_read(Path(pdb)), str(pdb))
        if not any(line.startswith(("ATOM", "HETATM")) for line in text.splitlines()):
            raise ValueError(f"{source} has no ATOM lines: give a PDB file with all atoms of one peptide")
        try:
            structure = app.PDBFile(io.StringIO(text))
        except Exception as error:  # OpenMM's parser raises whatever the broken line causes
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{source} is no readable PDB file ({reason}): check its ATOM lines") from error
        positions = np.array(structure.getPositions(asNumpy=True).value_in_unit(unit.nanometer), np.float64)
        return _assemble(structure.topology, positions, source)

    def to_pdb(self, positions_nm: npt.ArrayLike | None = None) -> str:
        """PDB text of this peptide, at `positions_nm` (N, 3) if given."""
        positions = np.asarray(self.positions if positions_nm is None else positions_nm, np.float64)
        if positions.shape != self.positions.shape:
            raise ValueError(f"positions_nm has shape {positions.shape}: give {self.positions.shape}")
        out = io.StringIO()
        app.PDBFile.writeFile(self.topology, positions * unit.nanometer, out)
        return out.getvalue()


def _read(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"no PDB file at {path}: check the path")
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: give a PDB file") from error


def _assemble(topology: app.Topology, positions: FloatArray, source: str) -> Peptide:
    """Check a structure and attach encodings and orderings."""
    chains = list(topology.chains())
    if len(chains) != 1:
        raise ValueError(f"{source} has {len(chains)} chains: give one peptide chain, without solvent")
    residues = list(topology.residues())
    if len(residues) < 2:
        raise ValueError(f"{source} has {len(residues)} residue(s): give a peptide of at least two")
    if not np.isfinite(positions).all():
        raise ValueError(f"{source} has coordinates that are not finite: repair its ATOM records")
    names = [residue.name for residue in residues]
    covered = all(name in tables.ONE_LETTER for name in names)
    for i, residue in enumerate(residues):
        if residue.name in tables.ONE_LETTER:
            _check_residue(residue, positions, first=i == 0, last=i == len(residues) - 1, source=source)
    atoms = [atom.name for atom in topology.atoms()]
    residue_of = [atom.residue.index for atom in topology.atoms()]
    return Peptide(
        sequence=label(names),
        positions=np.round(positions, 4),
        topology=topology,
        encodings=tables.encode(names, atoms, residue_of) if covered else {},
        orderings=tables.orderings(names, atoms, residue_of) if covered else {},
    )


def _check_residue(residue: Any, positions: FloatArray, *, first: bool, last: bool, source: str) -> None:
    where = f"{residue.name} {residue.index + 1} of {source}"
    atoms = {atom.name: atom.index for atom in residue.atoms()}
    expected = tables.expected_atoms(residue.name, first=first, last=last)
    hint = "give an uncapped, zwitterionic chain with all hydrogens (HIS as HIE, no disulphides)"
    if missing := expected - atoms.keys():
        raise ValueError(f"{where} lacks atom {' '.join(sorted(missing))}: {hint}")
    if extra := atoms.keys() - expected:
        raise ValueError(f"{where} has atom {' '.join(sorted(extra))}, which does not belong there: {hint}")
    if residue.name == "GLY":
        return
    n, c, cb = (positions[atoms[name]] - positions[atoms["CA"]] for name in ("N", "C", "CB"))
    # Zero when the atoms coincide (a PDB without coordinates): then there is no chirality to check.
    if np.dot(np.cross(n, c), cb) < 0:
        raise ValueError(f"{where} is a D-amino acid (mirrored at CA): give L-amino acids only")
