"""Structures of peptides from their names: extended, hydrogens placed, HIS as HIE, the same in every process."""

import io
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from openmm import app, unit

from .complete import add_hydrogens
from .sequences import caps, inner_letters, residue_names

FloatArray = npt.NDArray[np.float64]

# Bond (nm), angle (°) and torsion (°) of the amide groups that caps make: those of the force field at its minimum.
AMIDE_NM, AMIDE_C, AMIDE_N = 0.1335, 116.6, 121.9  # C-N; CA-C-N; C-N-CA
METHYL_C_NM, METHYL_N_NM, CARBONYL_NM, CARBONYL = 0.1522, 0.1449, 0.1229, 122.9  # CH3-C, N-CH3, C=O; N-C=O
PHI = -120.0  # of a residue behind ACE, as PeptideBuilder has of all others; of proline the ring decides


def build_structure(name: str) -> tuple[app.Topology, FloatArray]:
    """Topology and positions (N, 3), in nm, of the extended peptide of a canonical name."""
    import PeptideBuilder  # with Biopython slow to import, and needed only to build
    from Bio.PDB import PDBIO

    first, last = caps(name)
    structure = PeptideBuilder.make_extended_structure(inner_letters(name))
    if not last:
        with np.errstate(invalid="ignore"):  # of a chain that ends in one plane Biopython divides 0 by 0, in vain
            PeptideBuilder.add_terminal_OXT(structure)
    heavy, writer = io.StringIO(), PDBIO()
    writer.set_structure(structure)
    writer.save(heavy)
    heavy.seek(0)
    pdb = app.PDBFile(heavy)
    topology, positions = pdb.topology, pdb.positions
    if first or last:
        topology, positions = _capped(topology, positions, first=first, last=last)
    topology, positions = add_hydrogens(topology, positions, residue_names(name))
    return topology, np.array(positions.value_in_unit(unit.nanometer), np.float64)


# --- caps ---------------------------------------------------------------------------------------


def _capped(
    topology: app.Topology, positions: unit.Quantity, *, first: bool, last: bool
) -> tuple[app.Topology, unit.Quantity]:
    """The heavy atoms with those of the caps, trans, before and after them."""
    residues = list(topology.residues())
    xyz = np.array(positions.value_in_unit(unit.nanometer), np.float64)
    groups: list[tuple[str, dict[str, FloatArray]]] = [
        (residue.name, {atom.name: xyz[atom.index] for atom in residue.atoms()}) for residue in residues
    ]
    ends = groups[0][1], groups[-1][1]
    if first:
        groups.insert(0, ("ACE", _ace(ends[0])))
    if last:
        groups.append(("NME", _nme(ends[1])))
    capped, placed = app.Topology(), []
    chain = capped.addChain("A")
    for number, (name, atoms) in enumerate(groups, start=1):
        residue = capped.addResidue(name, chain, str(number))
        for atom, position in atoms.items():
            capped.addAtom(atom, app.Element.getBySymbol(atom[0]), residue)
            placed.append(np.round(position, 4))
    capped.createStandardBonds()
    return capped, np.array(placed) * unit.nanometer


def _ace(residue: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Heavy atoms of an acetyl group at the nitrogen of a residue."""
    n, ca, c = (residue[name] for name in ("N", "CA", "C"))
    phi = _torsion(residue["CD"], n, ca, c) + 180 if "CD" in residue and _is_ring(residue) else PHI
    carbon = _place(c, ca, n, AMIDE_NM, AMIDE_N, phi)
    return {
        "CH3": _place(ca, n, carbon, METHYL_C_NM, AMIDE_C, 180.0),
        "C": carbon,
        "O": _place(ca, n, carbon, CARBONYL_NM, CARBONYL, 0.0),
    }


def _nme(residue: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Heavy atoms of an N-methylamide group at the carbonyl of a residue."""
    n, ca, c, o = (residue[name] for name in ("N", "CA", "C", "O"))
    nitrogen = _place(n, ca, c, AMIDE_NM, AMIDE_C, _torsion(n, ca, c, o) + 180)
    return {"N": nitrogen, "C": _place(ca, c, nitrogen, METHYL_N_NM, AMIDE_N, 180.0)}


def _is_ring(residue: Mapping[str, FloatArray]) -> bool:
    """Return True for proline, whose CD is bonded to its N."""
    return float(np.linalg.norm(residue["CD"] - residue["N"])) < 0.17


def _place(a: FloatArray, b: FloatArray, c: FloatArray, bond: float, angle: float, torsion: float) -> FloatArray:
    """Position at `bond` (nm) from c, `angle` (°) with c-b, and `torsion` (°) a-b-c-."""
    along = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, along)
    normal /= np.linalg.norm(normal)
    theta, phi = np.radians(angle), np.radians(torsion)
    local = -np.cos(theta) * along + np.sin(theta) * (np.cos(phi) * np.cross(normal, along) + np.sin(phi) * normal)
    return np.asarray(c + bond * local, np.float64)


def _torsion(a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray) -> float:
    """Torsion of four positions. Units: °."""
    axis = (c - b) / np.linalg.norm(c - b)
    before, after = np.cross(b - a, c - b), np.cross(c - b, d - c)
    return float(np.degrees(np.arctan2(np.dot(np.cross(before, after), axis), np.dot(before, after))))
