"""Typed configurations from plain mappings, and where results go."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from boltzray.molecules.storage import sealing

T = TypeVar("T")


def _forbid_extra(kind: Any) -> None:
    """Make pydantic refuse unknown keys of a dataclass and of every dataclass within it.

    Set here, on classes of other packages: pydantic's own way, a decorator of each class, would make it a dependency of
    molecules, models and samplers, which do without.
    """
    for inner in get_args(kind):
        _forbid_extra(inner)
    if is_dataclass(kind) and "__pydantic_config__" not in vars(kind):
        kind.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[union-attr]
        for hint in get_type_hints(kind).values():
            _forbid_extra(hint)


def parse(kind: type[T], values: Mapping[str, Any]) -> T:
    """Make an instance of the dataclass `kind` from a plain, nested mapping.

    Raises: ValueError of one line that names the key and what is wrong with it.
    """
    _forbid_extra(kind)
    try:
        parsed = TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "unexpected_keyword_argument":
            raise ValueError(f"unknown key {key}: see --help for the keys there are") from None
        if first["type"].startswith("missing"):
            raise ValueError(f"{key} is required: give {key}=…") from None
        if first["type"] == "string_type" and isinstance(first["input"], (bool, int, float)):
            name = next(str(part) for part in reversed(first["loc"]) if isinstance(part, str))
            raise ValueError(
                f"{key}: YAML reads this as {first['input']}, no text: put it in quotes, as {name}: 'YES'"
            ) from None
        reason = str(first["msg"]).removeprefix("Value error, ")
        where = f"{key}: " if key else ""
        got = "" if first["type"] == "value_error" else f" (got {first['input']!r})"
        raise ValueError(f"{where}{reason}{got}") from None
    for key, value in flat(parsed).items():
        if key.split(".")[-1] == "seed" and isinstance(value, int) and value < 0:
            raise ValueError(f"{key}={value}: a seed is 0 or a positive integer")
    return parsed


def results_home() -> Path:
    """Return the folder that relative result paths and the MLflow store refer to.

    `BOLTZRAY_HOME` if set. Else the working folder, unless Ray unpacked that from a job's `--working-dir`: such a
    snapshot is deleted with the job, so results go to ~/boltzray.
    """
    if home := os.environ.get("BOLTZRAY_HOME"):
        return Path(home).expanduser().absolute()
    cwd = Path.cwd()
    return Path.home() / "boltzray" if "runtime_resources" in cwd.parts else cwd


def results_folder(out: str) -> Path:
    """Make `out` absolute below `results_home`, and create it."""
    folder = results_home() / Path(out).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def data_folder(path: str) -> Path:
    """Make the path of a data folder absolute, below `results_home` when relative."""
    return results_home() / Path(path).expanduser()


def display_path(path: Path) -> str:
    """Format a path for people: relative to `results_home` where it lies there."""
    return str(path.relative_to(results_home())) if path.is_relative_to(results_home()) else str(path)


def fingerprint(value: Any) -> str:
    """Hash a JSON-able value or a dataclass, in 12 hexadecimal digits."""
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:12]


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all, and sealed: `read_json` tells whether it is still the same."""
    with sealing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, default=str))


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten a nested dataclass or mapping to dotted keys."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, Mapping):
        result: dict[str, Any] = {}
        for key, inner in value.items():
            result |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
        return result
    return {prefix: value}
