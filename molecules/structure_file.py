"""Structure files as people have them → the atoms of one peptide, under the names of the wwPDB.

PDB and mmCIF, compressed or not, of any program: names of CHARMM, GROMACS, AMBER, PDB version 2 and PyMOL; several
models, alternate locations, water and ions. Bonds come from the residues' templates, never from CONECT records.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gemmi
import numpy as np
from scipy.spatial import cKDTree

from .file_residue import FileResidue, rename_heavy, rename_hydrogens
from .kinds import POINTER, is_modified, refuse_residue
from .protonation import state_of
from .residues import CAPS, ONE_LETTER, STATES
from .structure_text import HIGHEST, LOWEST, parse_structure

STANDARD_NAMES = {"HIE": "HIS", "HSE": "HIS", "HISE": "HIS", "HISB": "HIS", "NMA": "NME"}  # other states are refused
_WATER = {"HOH", "WAT", "H2O", "SOL", "TIP", "TIP3", "TP3", "TIP4", "TIP5", "TIP3P", "SPC", "DOD", "OPC", "T3P", "T4P"}
_METALS = {"ZN", "FE", "CU", "NI", "CO", "MN", "CD", "HG", "PT", "AU", "AG", "PB", "RU", "PD", "MO", "W"}
MAX_RESIDUE_ATOMS = 99
_BONDED, _BONDED_METAL = 0.19, 0.28  # nm between heavy atoms: less is a bond; water comes no closer than 0.25


@dataclass(frozen=True)
class StructureFile:
    """One peptide of a file, its atoms in the order of the file. `notes`: what was left out or chosen.

    `n_atoms`: of the file's first model, with solvent and all locations. `has_coordinates`: else all are at one point.
    """

    residues: list[FileResidue]
    notes: list[str]
    n_atoms: int
    has_coordinates: bool


def read_structure(content: bytes, source: str, *, states: bool = False) -> StructureFile:
    """Read the peptide of a PDB or mmCIF file, its atoms renamed to the wwPDB's names, in the order of the file.

    `states`: accept HID, HIP, ASH, GLH, told by names or by hydrogens.
    Raises: ValueError for anything but one chain of residues that can be named; it says which kind of thing was found.
    """
    structure, long_names = parse_structure(content, source)
    notes = []
    if len(structure) > 1:
        notes.append(f"the first of {len(structure)} models was taken")
    found = _residues_of(structure[0], long_names, notes)
    if not all(LOWEST / 10 < np.min(r.positions) <= np.max(r.positions) < HIGHEST / 10 for r in found):
        raise ValueError(f"{source} has coordinates that are not finite, or huge: repair them")
    peptide = [r for r in found if not _is_solvent(r)]
    left_out = [r for r in found if _is_solvent(r)]
    if not peptide:
        raise ValueError(f"{source} has no peptide, but {', '.join(sorted({r.name for r in found})) or 'nothing'}")
    for residue in peptide:
        if states:
            residue.name = state_of(residue)
        if residue.name not in ONE_LETTER and residue.name not in CAPS and not (states and residue.name in STATES):
            refuse_residue(residue.name, f"{residue} of {source}")
        _check_atoms(residue, source)
    if left_out:
        _check_apart(peptide, left_out, source)
        kinds = ", ".join(sorted({r.name for r in left_out}))
        count = "1 molecule" if len(left_out) == 1 else f"{len(left_out)} molecules"
        notes.append(f"{count} of solvent or ions {'was' if len(left_out) == 1 else 'were'} left out ({kinds})")
    _check_chains(peptide, source)
    if len(peptide) < 2:
        raise ValueError(f"{source} has {len(peptide)} residue(s): give a peptide of at least two")
    has_coordinates = bool(np.ptp(np.concatenate([np.array(r.positions) for r in peptide])))
    if has_coordinates:  # a file without any is as good as another to sample from
        _check_geometry(peptide, source)
    loose = 0
    for i, residue in enumerate(peptide):
        rename_heavy(residue, last=i == len(peptide) - 1)
        rename_hydrogens(residue, first=i == 0, last=i == len(peptide) - 1)
        loose += _drop(residue, residue.hydrogens().get("", [])) if has_coordinates else 0
    if loose:
        notes.append(f"{loose} hydrogens are on no atom, and were placed anew")
    return StructureFile(peptide, notes, structure[0].count_atom_sites(), has_coordinates)


def _residues_of(model: gemmi.Model, long_names: dict[str, str], notes: list[str]) -> list[FileResidue]:
    """Residues of a model in the order of the chain, each at one of its alternate locations."""
    result: list[FileResidue] = []
    count, moved = 0, False
    for number, chain in enumerate(model):
        of_chain: list[FileResidue] = []
        for one in _one_of_each_place(chain):
            name = one.name.strip().upper()
            name = _standard(long_names.get(name, name))
            found = FileResidue(name, str(one.seqid), f"{chain.name or 'A'}{number}")
            best: dict[str, float] = {}
            taken: set[str] = set()
            for atom in one:
                best[atom.name] = max(best.get(atom.name, -1.0), atom.occ)
            for atom in one:
                if atom.has_altloc() and (atom.name in taken or atom.occ < best[atom.name]):
                    continue
                taken.add(atom.name)
                found.names.append(atom.name.strip().upper())
                found.elements.append("H" if atom.is_hydrogen() else atom.element.name.upper())
                found.positions.append(np.array(atom.pos.tolist()) / 10)
                found.indices.append(atom.serial - 1)
            of_chain += _without_patches(found)
        places = [(one.seqid.num or 0, one.seqid.icode) for one in chain]
        if len(set(places)) == len(places) == len(of_chain) and places != sorted(places):
            moved = True
            of_chain = [of_chain[i] for i in sorted(range(len(places)), key=places.__getitem__)]
        result += of_chain
        count += sum(len(one) for one in chain)
    kept = sum(len(residue.names) for residue in result)
    if count > kept:
        what = "of atoms and residues with alternate locations the most occupied was taken"
        notes.append(f"{what} ({count - kept} left out)")
    if moved:
        notes.append("residues were put in the order of their numbers")
    return result


def _one_of_each_place(chain: gemmi.Chain) -> Iterator[gemmi.Residue]:
    """Residues of a chain; of two kinds at one place, as alternate locations, the more occupied one."""
    places: dict[str, list[int]] = {}
    residues = list(chain)
    for i, one in enumerate(residues):
        if all(atom.has_altloc() for atom in one):
            places.setdefault(str(one.seqid), []).append(i)
    left_out: set[int] = set()
    for here in places.values():
        left_out |= set(here) - {max(here, key=lambda i: max(atom.occ for atom in residues[i]))}
    yield from (one for i, one in enumerate(residues) if i not in left_out)


def _standard(name: str) -> str:
    """The name of a residue without the N or C that AMBER puts before the ends of a chain, HIS for HIE."""
    if len(name) == 4 and name[0] in "NC" and name[1:] in {**ONE_LETTER, **STANDARD_NAMES, **STATES}:
        name = name[1:]
    return STANDARD_NAMES.get(name, name)


def _drop(residue: FileResidue, places: Sequence[int]) -> int:
    """Remove atoms; returns how many."""
    for i in sorted(places, reverse=True):
        for column in (residue.names, residue.elements, residue.positions, residue.indices):
            del column[i]
    return len(places)


def _without_patches(residue: FileResidue) -> Iterator[FileResidue]:
    """A residue, and the caps that CHARMM's patches ACE and CT3 make part of it."""
    start = {"CAY", "HY1", "HY2", "HY3", "CY", "OY"}
    end = {"NT", "HNT", "CAT", "HT1", "HT2", "HT3"} if {"NT", "CAT"} <= set(residue.names) else set()
    number = int("".join(c for c in residue.number if c.isdigit() or c == "-") or 0)
    ids = {"ACE": str(number - 1), "NME": str(number + 1)}
    for name, own in (("ACE", start), (residue.name, None), ("NME", end)):
        chosen = [i for i, n in enumerate(residue.names) if (n in own if own is not None else n not in start | end)]
        if chosen:
            yield FileResidue(
                name,
                ids[name] if own is not None else residue.number,
                residue.chain,
                [residue.names[i] for i in chosen],
                [residue.elements[i] for i in chosen],
                [residue.positions[i] for i in chosen],
                [residue.indices[i] for i in chosen],
            )


def _is_solvent(residue: FileResidue) -> bool:
    """Tell water, ions and buffers: nothing with a backbone."""
    if residue.name in ONE_LETTER or residue.name in CAPS or is_modified(residue.name):
        return False
    if residue.name in _WATER or len(residue.names) == 1:
        return True
    kind = gemmi.find_tabulated_residue(residue.name).kind
    return kind in (gemmi.ResidueKind.HOH, gemmi.ResidueKind.BUF) and "CA" not in residue.names


def _check_atoms(residue: FileResidue, source: str) -> None:
    """Take elements from names, which begin with theirs. Raises: ValueError for those that contradict, and for many.

    Programs that know no names write the first two letters of one (CA) as its element, or none.
    """
    if len(residue.names) > MAX_RESIDUE_ATOMS:
        raise ValueError(f"{residue} of {source} has {len(residue.names)} atoms, more than any: give each atom once")
    for i, (name, element) in enumerate(zip(residue.names, residue.elements, strict=True)):
        letters = name.lstrip("0123456789'\"*")[:2]
        if element in ("X", letters):
            residue.elements[i] = letters[:1]
        elif element != letters[:1] and (element, letters[:1]) != ("H", "D"):
            raise ValueError(f"{residue} of {source} has atom {name} of element {element}: correct the file's elements")


def _check_chains(peptide: Sequence[FileResidue], source: str) -> None:
    chains: dict[str, list[FileResidue]] = {}
    for residue in peptide:
        chains.setdefault(residue.chain, []).append(residue)
    if len(chains) > 1:
        names = ["-".join(residue.name for residue in chain) for chain in chains.values()]
        copies = "copies" if len(set(names)) == 1 else "chains"
        raise ValueError(f"{source} has {len(chains)} {copies}: give one peptide chain (delete the others)")


def _check_apart(peptide: Sequence[FileResidue], left_out: Sequence[FileResidue], source: str) -> None:
    """Raises: ValueError where what would be left out is bonded to the peptide."""
    owners = [residue for residue in peptide for element in residue.elements if element != "H"]
    heavy = [xyz for r in peptide for xyz, element in zip(r.positions, r.elements, strict=True) if element != "H"]
    others = [(r, element) for r in left_out for element in r.elements]
    tree = cKDTree(np.array(heavy).reshape(-1, 3))
    distances, nearest = tree.query(np.array([xyz for r in left_out for xyz in r.positions]))
    for (residue, element), distance, i in zip(others, distances, nearest, strict=True):
        if element != "H" and 0 < distance < (_BONDED_METAL if element in _METALS else _BONDED):
            raise ValueError(f"{residue} of {source} is bonded to {owners[i]} ({10 * distance:.1f} Å): {POINTER}")


def _check_geometry(peptide: Sequence[FileResidue], source: str) -> None:
    """Raises: ValueError for coordinates in nm, a break in the chain, or a ring."""
    ends = [dict(zip(r.names, r.positions, strict=True)) for r in peptide]
    lengths = [float(np.linalg.norm(one["N"] - one["CA"])) for one in ends if {"N", "CA"} <= one.keys()]
    if lengths and np.median(lengths) < 0.03:
        raise ValueError(f"{source} has coordinates in nm ({np.median(lengths) * 10:.3f} from N to CA): PDB wants Å")
    for before, after, one, other in zip(peptide, peptide[1:], ends, ends[1:], strict=False):
        if "C" in one and "N" in other and (gap := float(np.linalg.norm(one["C"] - other["N"]))) > 0.25:
            raise ValueError(
                f"{source} has a chain break between {before} and {after} (C–N {gap * 10:.1f} Å): give one whole chain "
                "(model the missing residues, or mend a molecule that is broken over the periodic box)"
            )
    first, last = ends[0], ends[-1]
    if len(peptide) > 2 and "N" in first and "C" in last and np.linalg.norm(first["N"] - last["C"]) < 0.17:
        raise ValueError(f"{source} is a cyclic peptide (N of {peptide[0]} is bonded to C of {peptide[-1]}): {POINTER}")
