"""A peptide: its atoms, their positions, and the encodings and orderings that a flow takes."""

import hashlib
import io
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from openmm import app, unit

from . import residues as tables
from . import stereo, zmatrix
from .build import build_structure
from .complete import complete
from .kinds import POINTER
from .planar_names import PlanarGroup, planar_groups
from .sequences import check_sequence, label
from .structure_file import read_structure
from .structure_text import file_bytes

FloatArray = npt.NDArray[np.float64]
MARK = b"REMARK 950 BOLTZRAY MOLECULE"  # of the files of `Molecule`
STATES_MARK = b"REMARK 950 BOLTZRAY STATES OF PROTONATION"  # of the files of peptides that have some


@dataclass(frozen=True, kw_only=True, eq=False)
class Peptide:
    """One peptide chain, atoms in the order of its file.

    `sequence`: one-letter codes, caps by name, as in `ACE-AAA-NME`. `encodings` and `orderings` are empty when no
    vocabulary covers the peptide. `notes`: what was left out of its file, or added.
    `file_atoms`: index in the file's first model of each atom; None where hydrogens or others had to be added.
    `system_xml`: the serialised OpenMM System that it brings with it: of a `Molecule`.

    Shape: positions (N, 3); encodings (N,), `seq_len` (1,); orderings (N,), int64.
    Units: nm, at the precision of a PDB file (1e-4).
    """

    sequence: str
    positions: FloatArray
    topology: app.Topology
    encodings: dict[str, tables.IntArray]
    orderings: dict[str, tables.IntArray]
    notes: tuple[str, ...] = ()
    file_atoms: tables.IntArray | None = None
    system_xml: str = ""

    @property
    def own_forcefield(self) -> str | None:
        """Name of the force field that it brings with it, if it does."""
        return f"system-{hashlib.sha256(self.system_xml.encode()).hexdigest()[:8]}" if self.system_xml else None

    @property
    def n_atoms(self) -> int:
        """Number of atoms, hydrogens included."""
        return len(self.positions)

    @property
    def vocabulary(self) -> int:
        """The first vocabulary that covers it (see `residues`), 0 if none does, as of a `Molecule`."""
        residues = [residue.name for residue in self.topology.residues()]
        return tables.vocabulary_of(residues) if self.encodings else 0

    @cached_property
    def _iupac_names(self) -> list[tuple[int, str]]:
        """Residue number and IUPAC name of each atom, prochiral ones by where they stand."""
        residues = [residue.name for residue in self.topology.residues()]
        return stereo.iupac_names(residues, _names(self.topology), self.positions)

    @cached_property
    def iupac_order(self) -> tables.IntArray:
        """Index (N,) of the atom that each place of the standard order has: `x[:, iupac_order]` for frames x.

        That order has IUPAC's names, told by handedness (see `stereo`): whatever the file, the same atom is there.
        """
        return stereo.iupac_order([residue.name for residue in self.topology.residues()], self._iupac_names)

    @cached_property
    def amber_order(self) -> tables.IntArray:
        """Index (N,) of the atom that each place of AMBER's residue templates has; by the names that the atoms have.

        Raises: ValueError for residues outside the twenty, and for atoms that they do not have.
        """
        residues, names = [residue.name for residue in self.topology.residues()], _names(self.topology)
        return tables.amber_order(residues, [name for _, name in names], [number for number, _ in names])

    def at(self, positions_nm: npt.ArrayLike) -> "Peptide":
        """The same peptide at other positions (N, 3), which then tell its prochiral atoms: see `iupac_order`.

        Files of trajectories often name the hydrogens of a CH2 group otherwise than the PDB file beside them.
        """
        positions = np.asarray(positions_nm, np.float64)
        if positions.shape != self.positions.shape:
            raise ValueError(f"positions_nm has shape {positions.shape}: give {self.positions.shape}")
        return replace(self, positions=positions)

    def iupac(self) -> "Peptide":
        """The same peptide in the standard order, under IUPAC's names. The same bits whatever file it came from."""
        order = self.iupac_order
        names = [self._iupac_names[i] for i in order]
        if names == _names(self.topology) and (order == np.arange(self.n_atoms)).all():
            return self
        topology, atoms = app.Topology(), list(self.topology.atoms())
        chain = topology.addChain("A")
        residues = [topology.addResidue(r.name, chain, r.id, r.insertionCode) for r in self.topology.residues()]
        for i, (residue, name) in zip(order, names, strict=True):
            topology.addAtom(name, atoms[i].element, residues[residue])
        text = io.StringIO()
        app.PDBFile.writeFile(topology, self.positions[order] * unit.nanometer, text, keepIds=True)
        return Peptide.from_pdb(text.getvalue(), states=True)

    @cached_property
    def planar_groups(self) -> tuple[PlanarGroup, ...]:
        """Planar groups that turn round, by indices in the standard order."""
        return planar_groups(self.iupac().topology)

    def internal(self, geometry: str | None = None) -> dict[str, np.ndarray]:
        """Z-matrix, and usual bonds, angles and torsions: see `molecules.zmatrix`. They are in the order of the file.

        `geometry`: version of the table of usual values, that with which the flow was trained; None for this one's.

        Shape: z_matrix, mean, scale (N, 3); rotatable, level, permutation, placement (N,). Units: nm, rad.
        Raises: ValueError for residues outside the vocabularies, or a version that is not known, or lacks them.
        """
        if not self.encodings:
            raise ValueError(f"{self.sequence} has residues whose usual geometry is not known: {POINTER}")
        version = geometry or zmatrix.geometry_version(self.vocabulary)
        if version not in self._internal:
            residues = [residue.name for residue in self.topology.residues()]
            bonds = [(bond[0].index, bond[1].index) for bond in self.topology.bonds()]
            self._internal[version] = zmatrix.internal_coordinates(
                residues, _names(self.topology), bonds, self._iupac_names, version
            )
        return self._internal[version]

    @cached_property
    def _internal(self) -> dict[str, dict[str, np.ndarray]]:
        return {}

    @classmethod
    def from_sequence(cls, sequence: str, max_residues: int | None = None) -> "Peptide":
        """Build the extended L-peptide, HIS as HIE, ends charged or capped. The same result in every process.

        `sequence`: as `molecules.sequences.parse_sequence` reads it, `ARIP`, `Ala-Gly`, `ACE-A-NME`.
        Raises: ValueError for what is not read, fewer than two residues, or more than `max_residues`.
        """
        name = check_sequence(sequence, max_residues)
        topology, positions = build_structure(name)
        # Through text, as any file: an energy is summed in the order of the bonds, which a parser may change.
        return cls.from_pdb(_assemble(topology, positions, source=name).iupac().to_pdb())

    @classmethod
    def from_pdb(cls, pdb: str | Path, *, states: bool = False) -> "Peptide":
        """Read one peptide chain from a PDB or mmCIF file, which may be compressed, or from its text; or a `Molecule`.

        Names of other programs are mapped, solvent is left out, missing atoms are added: see `notes`.
        `states`: accept the states of protonation that flows can be trained on (`residues.STATES`), as the file's
        hydrogens or names have them; files that `to_pdb` wrote are always accepted.
        Raises: FileNotFoundError; ValueError for anything but one chain of L-residues and caps at pH 7.
        """
        is_text = isinstance(pdb, str) and ("\n" in pdb or pdb.startswith(("ATOM", "HETATM")))
        source = "PDB text" if is_text else str(pdb)
        content = str(pdb).encode() if is_text else file_bytes(Path(pdb))
        if MARK in content:
            kind = import_module(".molecule", __package__).Molecule  # by name: its file needs this one
            molecule: Peptide = kind.from_text(content.decode(), source)
            return molecule
        found = read_structure(content, source, states=states or STATES_MARK in content)
        topology, positions, notes = complete(found, source)
        indices = np.concatenate([residue.indices for residue in found.residues])
        complete_already = len(indices) == len(positions)
        return _assemble(
            topology,
            positions,
            source,
            notes=(*found.notes, *notes),
            file_atoms=indices if complete_already else None,
        )

    def to_pdb(self, positions_nm: npt.ArrayLike | None = None) -> str:
        """PDB text of this peptide, at `positions_nm` (N, 3) if given."""
        positions = np.asarray(self.positions if positions_nm is None else positions_nm, np.float64)
        if positions.shape != self.positions.shape:
            raise ValueError(f"positions_nm has shape {positions.shape}: give {self.positions.shape}")
        out = io.StringIO()
        if any(residue.name in tables.STATES for residue in self.topology.residues()):
            out.write(f"{STATES_MARK.decode()}\n")
        app.PDBFile.writeFile(self.topology, positions * unit.nanometer, out)
        return out.getvalue()


def _assemble(
    topology: app.Topology,
    positions: FloatArray,
    source: str,
    notes: tuple[str, ...] = (),
    file_atoms: tables.IntArray | None = None,
) -> Peptide:
    """Check handedness, and attach encodings and orderings."""
    residues = list(topology.residues())
    names = [residue.name for residue in residues]
    covered = tables.vocabulary_of(names) > 0
    for residue in residues:
        _check_handedness(residue, positions, source)
    atoms = [atom.name for atom in topology.atoms()]
    residue_of = [atom.residue.index for atom in topology.atoms()]
    return Peptide(
        sequence=label(names),
        positions=np.round(positions, 4),
        topology=topology,
        encodings=tables.encode(names, atoms, residue_of) if covered else {},
        orderings=tables.orderings(names, atoms, residue_of) if covered else {},
        notes=notes,
        file_atoms=file_atoms,
    )


def _names(topology: app.Topology) -> list[tuple[int, str]]:
    return [(atom.residue.index, atom.name) for atom in topology.atoms()]


def _check_handedness(residue: Any, positions: FloatArray, source: str) -> None:
    where = f"{residue.name} {residue.id} of {source}"
    centre = stereo.wrong_centre(residue.name, {atom.name: positions[atom.index] for atom in residue.atoms()})
    if centre == "CA":
        raise ValueError(f"{where} is a D-amino acid (mirrored at CA): {POINTER}")
    if centre:
        raise ValueError(f"{where} is the allo form (mirrored at {centre}): {POINTER}")
