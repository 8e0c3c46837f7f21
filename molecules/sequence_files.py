"""Lists of peptides: files of sequences, and names that are given twice."""

import gzip
import zlib
from collections.abc import Iterable
from pathlib import Path

from .sequences import fasta_records, parse_sequence

FILES = (".fasta", ".fa", ".faa", ".txt")  # each also with .gz


def unique(sequences: Iterable[str]) -> tuple[tuple[str, ...], str | None]:
    """Canonical names in their order, each once, and a note if some were given twice."""
    given = list(sequences)
    names = [parse_sequence(text) for text in given]
    twice = sorted({name for name in names if names.count(name) > 1})
    note = f"given more than once, and taken once: {', '.join(twice)}" if twice else None
    return tuple(dict.fromkeys(names)), note


def is_sequence_file(text: str) -> bool:
    """Return True for the name of a file of sequences, which no sequence looks like."""
    return text.strip().lower().removesuffix(".gz").endswith(FILES)


def read_sequence_file(path: Path) -> list[str]:
    """Canonical names in a FASTA file, or in a text file with one a line; .gz as well.

    Raises: FileNotFoundError; ValueError that names the record, or the line, that is not read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file of sequences at {path}: check the path")
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix.lower() == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no file of sequences ({error}): give FASTA, or one sequence a line") from error
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    records = (
        fasta_records(text)
        if any(line.startswith(">") for line in lines)
        else [(f"line {number}", line) for number, line in enumerate(lines, start=1) if line]
    )
    if not records:
        raise ValueError(f"{path} holds no sequence: give FASTA, or one sequence a line")
    names = []
    for where, row in records:
        try:
            names.append(parse_sequence(row))
        except ValueError as error:
            raise ValueError(f"{where} of {path}: {error}") from None
    return names
