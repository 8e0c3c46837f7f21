"""Text of a structure file, whatever its form, as gemmi reads it."""

import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

import gemmi

MAX_BYTES = 100_000_000  # unpacked: 99,999 atoms have 8 MB in PDB format
LOWEST, HIGHEST = -999, 9999  # Å: coordinates that the columns of a PDB file hold
MAX_ATOMS = 99_999  # with solvent; what the serial numbers of a PDB file count to
_TOO_MANY = f"{{}} has more than {MAX_ATOMS} atoms: give one peptide, and its solvent"


class ParsedFile(NamedTuple):
    """A structure, and the names of its residues that have more than three letters, by what stands for them in it."""

    structure: gemmi.Structure
    long_names: dict[str, str]


def file_bytes(path: Path) -> bytes:
    """Read a structure file. Raises: FileNotFoundError; ValueError for one that is too large, or a folder."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give a file in it")
    if not path.is_file():
        raise FileNotFoundError(f"no PDB file at {path}: check the path")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size / 1e6:.0f} MB: give the structure of one peptide")
    return path.read_bytes()


def parse_structure(content: bytes, source: str) -> ParsedFile:
    """Parse a PDB or mmCIF file, compressed or not. Atoms are numbered from 1 as they come, in each model.

    Raises: ValueError of one line for anything else.
    """
    text = _text(content, source)
    long_names: dict[str, str] = {}
    is_cif = "_atom_site." in text
    if not is_cif:
        text, long_names = _pdb_lines(text, source)
    try:
        if is_cif:
            structure = gemmi.make_structure_from_block(gemmi.cif.read_string(text)[0])
            structure.assign_serial_numbers()
        else:
            structure = gemmi.read_pdb_string(text, split_chain_on_ter=True)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(f"{source} is no readable PDB or mmCIF file ({' '.join(str(error).split())})") from error
    if not len(structure) or not any(len(chain) for chain in structure[0]):
        raise ValueError(f"{source} has no ATOM lines: give a PDB or mmCIF file with the atoms of one peptide")
    if structure[0].count_atom_sites() > MAX_ATOMS:
        raise ValueError(_TOO_MANY.format(source))
    return ParsedFile(structure, long_names)


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


def _pdb_lines(text: str, source: str) -> tuple[str, dict[str, str]]:
    """The records that matter, in capitals, numbered, with coordinates that are numbers; and long names of residues.

    Programs write names of four letters (HISH, TIP3) over the column that belongs to none; here a number of three
    digits stands for each.
    """
    kept: list[str] = []
    short_names: dict[str, str] = {}
    serial = 0
    for line in text.splitlines():
        record = line[:6].upper()
        if record.startswith(("ATOM", "HETATM")):
            line = line if line[:6] == record else line.upper()
            if not line.isascii():  # columns are bytes to gemmi
                line = line.encode("ascii", "replace").decode()
            _check_coordinates(line, source)
            serial += 1
            if serial > MAX_ATOMS:
                raise ValueError(_TOO_MANY.format(source))
            if line[20] != " ":
                short = short_names.setdefault(line[17:21].strip(), f"{len(short_names):03d}")
                if len(short) > 3:
                    raise ValueError(f"{source} has more than 1000 names of residues: check columns 18 to 21")
                line = f"{line[:17]}{short} {line[21:]}"
            kept.append(f"{line[:6]}{serial:5d}{line[11:]}")
        elif record.startswith("MODEL"):
            serial = 0
            kept.append(line.upper())
        elif record.startswith(("TER", "END")):
            kept.append(record.strip())
    if not serial:
        raise ValueError(f"{source} has no ATOM lines: give a PDB or mmCIF file with the atoms of one peptide")
    return "\n".join(kept) + "\n", {short: long for long, short in short_names.items()}


def _check_coordinates(line: str, source: str) -> None:
    try:
        numbers = [float(line[low : low + 8]) for low in (30, 38, 46)]
    except ValueError as error:
        raise ValueError(
            f"{source} is no readable PDB file ({error}): check its ATOM lines, whose columns 31 to 54 hold x, y, z: "
            f"{line.rstrip()!r}"
        ) from error
    if not all(LOWEST < x < HIGHEST for x in numbers):  # nor NaN
        raise ValueError(f"{source} has coordinates that are not finite, or huge: repair {line.rstrip()!r}")
