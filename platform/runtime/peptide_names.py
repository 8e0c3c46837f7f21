"""Peptides that a job is asked for: names, lists and files of them, as the command line and YAML give them."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator

from boltzray.molecules.sequence_files import is_sequence_file, read_sequence_file, unique
from boltzray.molecules.sequences import parse_sequence

from .config import data_folder
from .progress import say


def one_peptide(text: str) -> str:
    """Canonical name of a peptide, or of the only one in a file; empty stays empty.

    Raises: ValueError for what is not read, or a file of several; FileNotFoundError.
    """
    if not text or not is_sequence_file(text):
        return parse_sequence(text) if text else ""
    names = read_sequence_file(data_folder(text))
    if len(names) > 1:
        raise ValueError(f"{text} holds {len(names)} peptides where one is asked for: name one, such as {names[0]}")
    return names[0]


def several_peptides(given: Iterable[str]) -> tuple[str, ...]:
    """Canonical names of peptides, each once; files stand for all that they hold.

    Raises: ValueError for what is not read; FileNotFoundError.
    """
    names, note = unique(expanded(given))
    if note:
        say(f"note: {note}")
    return names


def expanded(given: Iterable[str]) -> list[str]:
    """The same with the names in a file instead of its path."""
    return [
        name for text in given for name in (read_sequence_file(data_folder(text)) if is_sequence_file(text) else [text])
    ]


def _as_list(given: Any) -> Any:
    """One name, or several between commas, where a list is expected."""
    return [part.strip() for part in given.split(",")] if isinstance(given, str) else given


Sequences = Annotated[tuple[str, ...], BeforeValidator(_as_list)]  # as a job's key takes them: a list, a name or a file
Lengths = Annotated[
    tuple[int, ...], BeforeValidator(lambda given: [given] if isinstance(given, int) else _as_list(given))
]
