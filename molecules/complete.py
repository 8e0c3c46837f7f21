"""Missing atoms of a structure, which are added; and states of protonation, of which only one can be had."""

import io
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import openmm
from openmm import app, unit

from .bonds import check_structure
from .file_residue import FileResidue, pdb_lines
from .kinds import ACID_HYDROGENS, ASK, POINTER
from .residues import CAPS, STATES, expected_atoms
from .stereo import exchange, exchangeable
from .structure_file import StructureFile

_BRIDGE = 0.3  # nm between the sulphurs of a disulphide: OpenMM bonds those that are nearer


def complete(found: StructureFile, source: str) -> tuple[app.Topology, np.ndarray, list[str]]:
    """Topology, positions (N, 3) in nm, and notes on what was added to a structure.

    Raises: ValueError for a state of protonation that is not that of the force field's standard residues, and for
    atoms that do not belong.
    """
    residues, notes = found.residues, []
    _check_bridges(residues, source)
    with_hydrogens = any("H" in residue.elements for residue in residues)
    heavy_missing, hydrogens_missing = [], 0
    for i, residue in enumerate(residues):
        first, last = i == 0, i == len(residues) - 1
        expected = expected_atoms(residue.name, first=first, last=last)
        if "H" in residue.elements and set(residue.names) != expected:
            _check_protonation(residue, first, last, source)
        if extra := set(residue.names) - expected:
            raise ValueError(
                f"{residue} of {source} has atom {' '.join(sorted(extra))}, which does not belong there: {POINTER}"
            )
        if twice := sorted({name for name in residue.names if residue.names.count(name) > 1}):
            raise ValueError(f"{residue} of {source} has atom {' '.join(twice)} more than once: keep one of each")
        missing = expected - set(residue.names)
        heavy = sorted(name for name in missing if name[0] != "H")
        if {"N", "CA", "C"} & set(heavy):
            raise ValueError(f"{residue} of {source} lacks the backbone ({' '.join(heavy)}): give all atoms")
        heavy_missing += [f"{name} of {residue}" for name in heavy]
        hydrogens_missing += len(missing) - len(heavy)
    pdb = app.PDBFile(io.StringIO("\n".join(pdb_lines(residues)) + "\n"))
    topology, positions = pdb.topology, pdb.positions
    names = [residue.name for residue in residues]
    name_residues(topology, names)
    if found.has_coordinates:
        check_structure(_nm(positions), topology, source)
    elif heavy_missing or hydrogens_missing:
        raise ValueError(f"{source} has no coordinates, and lacks atoms: give all atoms, or coordinates to add them to")
    if heavy_missing:
        topology, positions = _add_heavy(residues)
        listed = ", ".join(heavy_missing[:6]) + (" …" if len(heavy_missing) > 6 else "")
        count = "1 heavy atom was" if len(heavy_missing) == 1 else f"{len(heavy_missing)} heavy atoms were"
        notes.append(f"{count} missing and added ({listed})")
    if hydrogens_missing:
        before = {(a.residue.index, a.name) for a in topology.atoms()}
        topology, positions = add_hydrogens(topology, positions, names)
        positions = _named_by_handedness(topology, positions, before)
        count = "1 hydrogen was" if hydrogens_missing == 1 else f"{hydrogens_missing} hydrogens were"
        count = count if with_hydrogens else "all hydrogens were"
        notes.append(f"{count} missing and added (charged ends, HIS as HIE)")
    if notes:
        check_structure(_nm(positions), topology, source)
    name_residues(topology, names)
    return topology, _nm(positions), notes


def _nm(positions: unit.Quantity) -> np.ndarray:
    return np.array(positions.value_in_unit(unit.nanometer), np.float64)


def _check_bridges(residues: Sequence[FileResidue], source: str) -> None:
    sulphurs = [
        (residue, xyz)
        for residue in residues
        if residue.name == "CYS"
        for name, xyz in zip(residue.names, residue.positions, strict=True)
        if name == "SG"
    ]
    for i, (one, here) in enumerate(sulphurs):
        for other, there in sulphurs[i + 1 :]:
            if 0 < np.linalg.norm(here - there) < _BRIDGE:
                raise ValueError(f"{source} has a disulphide bridge between {one} and {other}: {POINTER}")


def _check_protonation(residue: FileResidue, first: bool, last: bool, source: str) -> None:
    """Raises: ValueError for a residue with hydrogens whose acids and bases have not the usual number of them."""
    on = {parent: len(found) for parent, found in residue.hydrogens().items()}
    carbons = any(parent.startswith("C") for parent in on)

    def refuse(state: str, what: str = POINTER) -> None:
        raise ValueError(f"{residue} of {source} is {state}: {what}")

    name = residue.name
    extra = ACID_HYDROGENS.get(name, set()) & set(residue.names)
    if name == "HIS" and (extra or on.get("ND1")):
        both = "HE2" in residue.names or (not extra and on.get("NE2"))
        state = "doubly protonated (HIP)" if both else "histidine with its hydrogen on ND1 (HID), not on NE2 (HIE)"
        refuse(state, ASK)
    if name in ("ASP", "GLU") and (extra or any(on.get(oxygen) for oxygen in ("OD1", "OD2", "OE1", "OE2"))):
        refuse(f"neutral {'aspartic' if name == 'ASP' else 'glutamic'} acid", ASK)
    if name == "LYS" and on.get("NZ", 3) < 3:
        refuse("neutral lysine (LYN)")
    if name == "ARG" and on.get("NH1", 2) + on.get("NH2", 2) + on.get("NE", 1) < 5:
        refuse("neutral arginine")
    if name == "CYS" and carbons and not on.get("SG"):
        refuse("a cysteine without HG (of a disulphide bridge, or a thiolate)")
    if name == "TYR" and carbons and not on.get("OH"):
        refuse("a deprotonated tyrosine (no HH)")
    charged = 2 if name == "PRO" else 3
    if first and name not in CAPS and on.get("N", 0) == charged - 1:
        raise ValueError(f"{source} has a neutral N terminus ({on.get('N', 0)} hydrogens on N of {residue}): {POINTER}")
    if last and name not in CAPS and (on.get("O") or on.get("OXT")):
        raise ValueError(f"{source} has a neutral C terminus (a hydrogen on an oxygen of {residue}): {POINTER}")


def _add_heavy(residues: Sequence[FileResidue]) -> tuple[app.Topology, unit.Quantity]:
    from pdbfixer import PDBFixer  # slow to import

    text = io.StringIO("\n".join(pdb_lines(residues)) + "\n")
    fixer = PDBFixer(pdbfile=text, platform=openmm.Platform.getPlatformByName("Reference"))
    fixer.missingResidues = {}
    fixer.findMissingAtoms()
    fixer.addMissingAtoms(seed=1)
    return fixer.topology, fixer.positions


def add_hydrogens(
    topology: app.Topology, positions: unit.Quantity, names: Sequence[str]
) -> tuple[app.Topology, unit.Quantity]:
    """Add the missing hydrogens, HIS as HIE; the same in every process. `names`: of the residues, and of states."""
    for residue, name in zip(topology.residues(), names, strict=True):
        residue.name = STATES[name][0] if name in STATES else residue.name  # which OpenMM's table of hydrogens has
    modeller = app.Modeller(topology, positions)
    variants = [{"HIS": "HIE"}.get(name, name if name in STATES else None) for name in names]
    with _fixed_random():
        # Reference, not the fastest platform: its result does not depend on the machine's devices.
        modeller.addHydrogens(variants=variants, platform=openmm.Platform.getPlatformByName("Reference"))
    name_residues(modeller.topology, names)
    return modeller.topology, modeller.positions


def name_residues(topology: app.Topology, names: Sequence[str]) -> None:
    """Give states of protonation their names, which OpenMM's files and templates do without."""
    for residue, name in zip(topology.residues(), names, strict=True):
        if name in STATES:
            residue.name = name


@contextmanager
def _fixed_random() -> Iterator[None]:
    """Modeller places hydrogens by Python's `random`: give it a fixed seed, then put the state back."""
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)


def _named_by_handedness(
    topology: app.Topology, positions: unit.Quantity, before: set[tuple[int, str]]
) -> unit.Quantity:
    """Positions in which hydrogens that were added stand where their IUPAC names say."""
    xyz = np.array(positions.value_in_unit(unit.nanometer))
    for residue in topology.residues():
        at = {atom.name: atom.index for atom in residue.atoms()}
        for one in exchangeable(residue.name):
            pair = {one.first[0], one.second[0]}
            added = all(n[0] == "H" and (residue.index, n) not in before for n in pair)
            if added and one.needed <= at.keys() and one.sense_of({n: xyz[at[n]] for n in one.needed}) == -one.sense:
                swapped = dict(at)
                exchange(swapped, one)
                xyz[list(at.values())] = xyz[[swapped[name] for name in at]]
    return xyz * unit.nanometer
