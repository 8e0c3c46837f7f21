"""Any molecule with an energy of its own, where a peptide is expected; in one file, which readers of PDB open too.

Below REMARK 950 the file has what a PDB file cannot say: names and bonds, the serialised OpenMM System, and the
z-matrix with the usual values of its coordinates. So one text is all that an actor, or a folder of results, needs.
"""

import base64
import hashlib
import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from openmm import app

from .peptide import MARK, Peptide
from .residues import IntArray

_MARK = MARK.decode() + " 1"
MOST_BYTES = 100_000_000  # of a System and tables; more is no molecule
_LINE = "REMARK 950 "
_WIDTH = 69
_INTEGERS = ("z_matrix", "rotatable", "level", "placement", "permutation")


@dataclass(frozen=True, kw_only=True, eq=False)
class Molecule(Peptide):
    """Any molecule, atoms in the order of its file, with its energy; `sequence` is its name.

    It has no residues that a transferable flow knows: a flow of its own samples it.

    `system_xml`: the serialised OpenMM System. `tables`: z-matrix and usual values, as `graph_zmatrix` makes them.
    Units: nm, rad.
    """

    tables: dict[str, np.ndarray]

    @cached_property
    def iupac_order(self) -> IntArray:
        """Index (N,): the order of the file, which is that of its System."""
        return np.arange(self.n_atoms)

    @property
    def amber_order(self) -> IntArray:
        """Raises: ValueError, for AMBER's residue templates say nothing of it."""
        raise ValueError(f"{self.sequence} has atoms that AMBER's residue templates do not order")

    @cached_property
    def _iupac_names(self) -> list[tuple[int, str]]:
        return [(atom.residue.index, atom.name) for atom in self.topology.atoms()]

    def iupac(self) -> "Molecule":
        """Return the molecule itself: its names are its own."""
        return self

    @cached_property
    def geometry(self) -> str:
        """Fingerprint of its z-matrix and usual values: a flow that was trained with others gives wrong densities."""
        return hashlib.sha256(json.dumps(_plain(self.tables), sort_keys=True).encode()).hexdigest()[:16]

    def internal(self, geometry: str | None = None) -> dict[str, np.ndarray]:
        """Its tables. Raises: ValueError for those of another fingerprint."""
        if geometry not in (None, self.geometry):
            raise ValueError(
                f"the flow was trained with another z-matrix of {self.sequence}: give pdb= the molecule.pdb that it "
                "was trained with"
            )
        return self.tables

    def to_pdb(self, positions_nm: npt.ArrayLike | None = None) -> str:
        """Text of the molecule, at `positions_nm` (N, 3) if given."""
        plain = super().to_pdb(positions_nm).splitlines()
        lines = [line for line in plain if not line.startswith(("CONECT", "END"))]
        serial = [int(line[6:11]) for line in lines if line.startswith(("ATOM", "HETATM"))]
        bonds = [f"CONECT{serial[a.index]:5d}{serial[b.index]:5d}" for a, b in self.topology.bonds()]
        return "\n".join([*self._header, *lines, *bonds, "END", ""])

    @cached_property
    def _header(self) -> list[str]:
        atoms = [[atom.name, atom.element.symbol, atom.residue.index] for atom in self.topology.atoms()]
        content = {
            "name": self.sequence,
            "notes": list(self.notes),
            "atoms": atoms,
            "residues": [[residue.name, residue.id] for residue in self.topology.residues()],
            "bonds": [[a.index, b.index] for a, b in self.topology.bonds()],
            "system": self.system_xml,
            "tables": _plain(self.tables),
        }
        code = base64.b64encode(zlib.compress(json.dumps(content).encode(), 9)).decode()
        return [_MARK, *(_LINE + code[i : i + _WIDTH] for i in range(0, len(code), _WIDTH))]

    @classmethod
    def from_text(cls, text: str, source: str) -> "Molecule":
        """Read what `to_pdb` wrote. Raises: ValueError for a damaged file, or coordinates of other atoms."""
        lines = text.splitlines()
        code = "".join(line[len(_LINE) :] for line in lines if line.startswith(_LINE) and line.rstrip() != _MARK)
        try:
            packed = zlib.decompressobj()
            content = json.loads(packed.decompress(base64.b64decode(code, validate=True), MOST_BYTES))
            topology = build_topology(content["atoms"], content["residues"], content["bonds"])
            tables = {
                name: np.array(rows, np.int64 if name in _INTEGERS else np.float64)
                for name, rows in content["tables"].items()
            }
            positions = [
                [float(line[k : k + 8]) / 10 for k in (30, 38, 46)]
                for line in _first_model(lines)
                if line.startswith(("ATOM", "HETATM"))
            ]
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            raise ValueError(f"{source} is a damaged molecule file: make it again (jobs/fit.py)") from error
        if len(positions) != topology.getNumAtoms():
            raise ValueError(
                f"{source} has coordinates of {len(positions)} atoms, the molecule in its remarks has "
                f"{topology.getNumAtoms()}: make it again (jobs/fit.py)"
            )
        return cls(
            sequence=content["name"],
            positions=np.array(positions, np.float64).round(4),
            topology=topology,
            encodings={},
            orderings={},
            notes=tuple(content["notes"]),
            file_atoms=np.arange(len(positions)),
            system_xml=content["system"],
            tables=tables,
        )


def build_topology(atoms: list[list[Any]], residues: list[list[str]], bonds: list[list[int]]) -> app.Topology:
    """One chain of `residues` (name, number) with `atoms` (name, element, index of the residue) and bonds by index."""
    topology = app.Topology()
    chain = topology.addChain("A")
    places = [topology.addResidue(name, chain, number) for name, number in residues]
    made = [topology.addAtom(name, app.Element.getBySymbol(symbol), places[where]) for name, symbol, where in atoms]
    for a, b in bonds:
        topology.addBond(made[a], made[b])
    return topology


def _first_model(lines: list[str]) -> list[str]:
    ends = [i for i, line in enumerate(lines) if line.startswith("ENDMDL")]
    return lines[: ends[0]] if ends else lines


def _plain(tables: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: table.tolist() for name, table in tables.items()}
