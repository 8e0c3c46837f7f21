"""The command line as people write it → as Hydra's grammar reads it.

Hydra reads NAN, INF and FALSE as numbers and booleans, and takes no blanks beside brackets, `=`, `~`, commas or letters
outside ASCII in a value. Such values are quoted here. What its grammar reads as it was meant stays as it is.
"""

import re
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException

OVERRIDE = re.compile(r"(?P<key>(\+{0,2}|~)[\w/$@][\w/$.@:-]*)=(?P<value>.*)", re.DOTALL)
PEPTIDES = ("sequence", "sequences", "validation", "peptides")  # last parts of keys: words are no numbers there
PATHS = ("out", "pdb", "data_dir", "checkpoint", "source", "path", "input", "output", "real_data")
LISTS = ("samples", "finetuned")  # of paths; one value of `samples` is a number
WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--experimental-rerun")
WITHOUT = ("--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m", "--shell-completion", "-sc")
INFO = ("--info", "-i")  # with a value or without
SHORT = {"n": "samples", "o": "out", "f": "pdb"}
PEPTIDE_KEYS = {"simulate": "sequences", "evaluate": "sequences", "train": "data.sequences"}  # by job, else `sequence`


def read_arguments(given: Sequence[str], job: str) -> tuple[bool, list[str]]:
    """Return whether help is asked for, and the arguments for Hydra. `job`: its name, as in jobs/JOB.py.

    Raises: ValueError of one line that says how to write what is no argument.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--config-dir")
    # Not `-cd` as a name of the option: argparse would take `-c` for it.
    known, rest = parser.parse_known_args(["--config-dir" if argument == "-cd" else argument for argument in given])
    sweeps = any(argument in ("--multirun", "-m") for argument in rest)
    arguments = list(_read(rest, job, sweeps))
    if known.config_dir is not None:
        from boltzray.runtime.config import data_folder

        arguments += ["--config-dir", str(data_folder(known.config_dir))]
    return known.help, arguments


def _read(rest: Sequence[str], job: str, sweeps: bool) -> Iterator[str]:
    """Yield the arguments, quoted where that is needed."""
    takes_value = False
    for number, argument in enumerate(rest):
        name = argument.split("=")[0]
        override = OVERRIDE.fullmatch(argument)
        if takes_value or name in (*WITH_VALUE, *WITHOUT, *INFO):
            takes_value = not takes_value and "=" not in argument and name in WITH_VALUE
            yield argument
        elif override and not argument.startswith("-") and override["value"].strip() not in ("", "="):
            yield quoted(override["key"], override["value"], sweeps=sweeps)
        elif number and rest[number - 1] in INFO:
            yield argument
        elif override and (number + 1 == len(rest) or re.match(f"-|{OVERRIDE.pattern}", rest[number + 1])):
            yield argument  # `out=`: empty
        elif re.fullmatch(r"~[\w/.@-]+", argument):
            yield argument
        else:
            raise ValueError(_advice(rest, number, job))


def quoted(key: str, value: str, *, sweeps: bool = False) -> str:
    """The override of a key, its value in quotes where Hydra would not read it as it was meant.

    `sweeps`: leave those between commas, which --multirun takes apart.
    """
    whole = f"{key}={value}"
    name = re.split(r"[.@/+]", key)[-1]
    try:
        found: Any = OverridesParser.create().parse_override(whole)
    except HydraException:
        return f"{key}={_list_or_text(name, value)}"
    read = found.value()
    if isinstance(read, ChoiceSweep) and read.simple_form and not sweeps:
        return f"{key}={_in_quotes(value)}"
    if isinstance(read, list):
        return f"{key}={_list_or_text(name, value)}" if name in (*PEPTIDES, *LISTS) else whole
    return f"{key}={_in_quotes(value)}" if _is_text(name, value, read) else whole


def _is_text(name: str, value: str, read: Any, *, in_list: bool = False) -> bool:
    """Return True for what Hydra reads as a number or boolean, and is a peptide or a path."""
    if name in PEPTIDES:
        return isinstance(read, float | bool | None) and value.strip().isalpha() and value.strip() != "null"
    return name in (LISTS if in_list else PATHS) and isinstance(read, int | float)


def _list_or_text(name: str, value: str) -> str:
    """A list with those elements quoted that need it; anything else in quotes, unless a bracket was left open."""
    text = value.strip()
    if text.startswith("[") and text.endswith("]"):
        return f"[{','.join(_element(name, part) for part in _elements(text[1:-1]))}]"
    opened = text[:1] in ("[", "{", "'", '"')
    broken = opened and (not _is_closed(text) or text.endswith("}"))  # Hydra says what is wrong with it
    return value if broken else _in_quotes(value)


def _element(name: str, text: str) -> str:
    try:
        read = OverridesParser.create().parse_override(f"{name}={text}").value()
    except HydraException:
        return _in_quotes(text)
    return _in_quotes(text) if _is_text(name, text, read, in_list=True) else text


def _elements(text: str) -> list[str]:
    """Parts between commas that lie in no quotes and no brackets."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and not parts[-1].strip():
            quote = character
        elif character == "," and depth == 0:
            parts.append("")
            continue
        else:
            depth += (character in "([{") - (character in ")]}")
        parts[-1] += character
    return [part.strip() for part in parts] if text.strip() else []


def _is_closed(text: str) -> bool:
    pairs = {"[": "]", "{": "}"}
    return pairs.get(text[0], text[0]) in text[1:]


def _in_quotes(value: str) -> str:
    """The value as a quoted string of Hydra's grammar, in which a backslash counts before a quote alone."""
    inner = re.sub(r"(\\*)'", r"\1\1\\'", value)
    ending = inner[len(inner.rstrip("\\")) :]
    return f"'{inner}{ending}'"


# --- what is no argument ------------------------------------------------------------------------


def _advice(rest: Sequence[str], number: int, job: str) -> str:
    """Advice on how to write an argument that is none of KEY=VALUE, nor an option of Hydra's."""
    argument, following = rest[number], rest[number + 1] if number + 1 < len(rest) else ""
    if argument.startswith("-"):
        name, _, value = argument.lstrip("-").partition("=")
        value = value or (following if following and not following.startswith("-") and "=" not in following else "")
        key = {"s": "sequence", **SHORT}.get(name, name.replace("-", "_") if len(name) > 1 else "")
        if not key:
            return f"{argument} is no option: write settings as KEY=VALUE, such as {_peptide(job, 'DG')}; see --help"
        setting = _peptide(job, value or "…") if key in ("sequence", "sequences") else f"{key}={value or '…'}"
        return f"{argument} is no option: write {setting}"
    written = re.match(r"(?P<key>[\w.]+) *[:=] *(?P<value>[^ =:]+)", " ".join(rest[number : number + 3]))
    if written and (":" in argument or following.startswith("=") or argument.endswith("=")):
        return f"write {written['key']}={written['value']}, without blanks"
    if argument.lower().endswith((".pdb", ".cif", ".ent", ".gz")):
        return f"{argument} stands alone: write pdb={argument}"
    meant = _peptide(job, argument) if argument.isalpha() else "KEY=VALUE"
    return f"{argument} stands alone: write {meant}; see --help for the keys there are"


def _peptide(job: str, name: str) -> str:
    """The argument that gives a job its peptide."""
    key = PEPTIDE_KEYS.get(job, "sequence")
    return f"{key}=[{name}]" if key.endswith("s") else f"{key}={name}"
