"""Structure files as people have them → the atoms of one peptide, under the names of the wwPDB.

PDB and mmCIF, compressed or not, of any program: names of CHARMM, GROMACS, AMBER, PDB version 2 and PyMOL; several
models, alternate locations, water and ions. Bonds come from the residues' templates, never from CONECT records.
"""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np

from .file_residue import FileResidue, rename_heavy, rename_hydrogens
from .kinds import POINTER, refuse_residue
from .residues import CAPS, ONE_LETTER

MAX_BYTES = 200_000_000
MAX_ATOMS = 100_000  # with solvent
TITRATION_NAMES = {"HIE": "HIS", "HSE": "HIS", "HISE": "HIS", "HISB": "HIS"}  # all other states are refused
_WATER = {"HOH", "WAT", "H2O", "SOL", "TIP", "TIP3", "TP3", "TIP4", "TIP5", "TIP3P", "SPC", "DOD", "OPC", "T3P", "T4P"}


@dataclass(frozen=True)
class StructureFile:
    """One peptide of a file. `notes`: what was left out or chosen. `n_atoms`: of the first model, with solvent."""

    residues: list[FileResidue]
    notes: list[str]
    n_atoms: int


def read_structure(content: bytes, source: str) -> StructureFile:
    """Read the peptide of a PDB or mmCIF file, its atoms renamed to the wwPDB's names, in the order of the file.

    Raises: ValueError for anything but one chain of residues that can be named; it says which kind of thing was found.
    """
    structure = _parse(_text(content, source), source)
    notes = []
    if len(structure) > 1:
        notes.append(f"the first of {len(structure)} models was taken")
    residues, n_atoms, alternate = _atoms_of(structure[0])
    if alternate:
        notes.append(f"of atoms with alternate locations the most occupied was taken ({alternate} left out)")
    if n_atoms > MAX_ATOMS:
        raise ValueError(f"{source} has {n_atoms} atoms: give one peptide, with at most its solvent")
    peptide = [r for r in residues if not _is_solvent(r)]
    left_out = [r for r in residues if _is_solvent(r)]
    if left_out:
        kinds = sorted({r.name for r in left_out})
        count = (
            "1 molecule of solvent or ions was"
            if len(left_out) == 1
            else f"{len(left_out)} molecules of solvent or ions were"
        )
        notes.append(f"{count} left out ({', '.join(kinds)})")
    if not peptide:
        raise ValueError(f"{source} has no peptide, but {', '.join(sorted({r.name for r in residues})) or 'nothing'}")
    _check_chains(peptide, source)
    for residue in peptide:
        residue.name = TITRATION_NAMES.get(residue.name, residue.name)
        if residue.name == "NMA":
            residue.name = "NME"
        if residue.name not in ONE_LETTER and residue.name not in CAPS:
            refuse_residue(residue.name, f"{residue} of {source}")
    for i, residue in enumerate(peptide):
        rename_heavy(residue, last=i == len(peptide) - 1)
        rename_hydrogens(residue, first=i == 0, last=i == len(peptide) - 1)
    return StructureFile(peptide, notes, n_atoms)


# --- the file -----------------------------------------------------------------------------------


def file_bytes(path: Path) -> bytes:
    """Read a structure file. Raises: FileNotFoundError; ValueError for one that is too large, or a folder."""
    if not path.is_file():
        raise FileNotFoundError(f"no PDB file at {path}: check the path")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size / 1e6:.0f} MB: give the structure of one peptide")
    return path.read_bytes()


def _text(content: bytes, source: str) -> str:
    if content[:2] == b"\x1f\x8b":
        try:
            unpacker = zlib.decompressobj(wbits=31)
            content = unpacker.decompress(content, MAX_BYTES)
            if unpacker.unconsumed_tail:
                raise ValueError(f"{source} is too large: give the structure of one peptide")
            if not unpacker.eof:
                raise zlib.error("it ends early")
        except (zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{source} is a damaged .gz file ({error}): copy it again") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if "\x00" in text or sum(c < " " and c not in "\r\n\t\x1a\x0c" for c in text[:10_000]) > 10:
        raise ValueError(f"{source} is not a text file: give a PDB or mmCIF file")
    return text


def _parse(text: str, source: str) -> gemmi.Structure:
    is_cif = "_atom_site." in text
    text = text if is_cif else _pdb_lines(text, source)
    try:
        if is_cif:
            structure = gemmi.make_structure_from_block(gemmi.cif.read_string(text)[0])
        else:
            structure = gemmi.read_pdb_string(text, split_chain_on_ter=True)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(f"{source} is no readable PDB or mmCIF file ({' '.join(str(error).split())})") from error
    if not len(structure) or not any(len(chain) for chain in structure[0]):
        raise ValueError(f"{source} has no ATOM lines: give a PDB or mmCIF file with the atoms of one peptide")
    return structure


def _pdb_lines(text: str, source: str) -> str:
    """The records that matter, in capitals, with coordinates that are numbers."""
    kept = []
    for line in text.splitlines():
        record = line[:6].upper()
        if record.startswith(("ATOM", "HETATM")):
            line = line if line[:6] == record else line.upper()
            try:
                numbers = [float(line[low : low + 8]) for low in (30, 38, 46)]
            except ValueError as error:
                raise ValueError(
                    f"{source} is no readable PDB file ({error}): check its ATOM lines, whose columns 31 to 54 hold x, "
                    f"y, z: {line.rstrip()!r}"
                ) from error
            if not np.isfinite(numbers).all():
                raise ValueError(f"{source} has coordinates that are not finite: repair {line.rstrip()!r}")
            kept.append(line)
        elif record.startswith(("TER", "MODEL", "ENDMDL", "END")):
            kept.append(record.strip() if not record.startswith("MODEL") else line.upper())
    if not any(line.startswith(("ATOM", "HETATM")) for line in kept):
        raise ValueError(f"{source} has no ATOM lines: give a PDB or mmCIF file with the atoms of one peptide")
    return "\n".join(kept) + "\n"


def _atoms_of(model: gemmi.Model) -> tuple[list[FileResidue], int, int]:
    """Residues of a model, the number of its atoms, and how many alternate locations were left out."""
    residues: list[FileResidue] = []
    count = alternate = 0
    for number, chain in enumerate(model):
        for one in chain:
            found = FileResidue(one.name.strip().upper(), str(one.seqid), f"{chain.name}{number}")
            best: dict[str, float] = {}
            for atom in one:
                best[atom.name] = max(best.get(atom.name, -1.0), atom.occ)
            for atom in one:
                index, count = count, count + 1
                if atom.has_altloc() and (atom.name in found.names or atom.occ < best[atom.name]):
                    alternate += 1
                    continue
                found.names.append(atom.name.strip().upper())
                found.elements.append("H" if atom.is_hydrogen() else atom.element.name.upper())
                found.positions.append(np.array(atom.pos.tolist()) / 10)
                found.indices.append(index)
            residues += _without_patches(found)
    return residues, count, alternate


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
    if residue.name in ONE_LETTER:
        return False
    if residue.name in _WATER or len(residue.names) == 1:
        return True
    kind = gemmi.find_tabulated_residue(residue.name).kind
    return kind in (gemmi.ResidueKind.HOH, gemmi.ResidueKind.BUF) and "CA" not in residue.names


def _check_chains(peptide: Sequence[FileResidue], source: str) -> None:
    chains: dict[str, list[FileResidue]] = {}
    for residue in peptide:
        chains.setdefault(residue.chain, []).append(residue)
    if len(chains) > 1:
        names = ["-".join(residue.name for residue in chain) for chain in chains.values()]
        copies = "copies" if len(set(names)) == 1 else "chains"
        raise ValueError(f"{source} has {len(chains)} {copies}: give one peptide chain (delete the others)")
    _check_breaks(peptide, source)


def _check_breaks(peptide: Sequence[FileResidue], source: str) -> None:
    ends = [dict(zip(r.names, r.positions, strict=True)) for r in peptide]
    everything = np.concatenate([np.array(r.positions) for r in peptide])
    if not np.ptp(everything):  # a file without coordinates
        return
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
