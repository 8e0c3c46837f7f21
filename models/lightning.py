"""Weights and numbers of a Lightning checkpoint, of which nothing is executed or imported.

Such a file holds its network and its optimiser as pickled objects, so torch's own safe reader refuses it. Here a pickle
is read by an allow-list: ordered dictionaries, torch's rebuilders of tensors, its storages and data types. Every other
name becomes an inert placeholder, that remembers what it was given, and does nothing. Names that only code has a use
for (of the system, of files, of processes) are refused, and the error names them.
"""

import pickle
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

STORAGES: dict[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# Of the standard library, the names that data has. All others act on something, or lead to what does.
_HARMLESS = {
    *(f"builtins.{name}" for name in ("set", "frozenset", "list", "tuple", "dict", "int", "float", "bool", "str")),
    *(f"builtins.{name}" for name in ("bytes", "bytearray", "complex", "slice", "range", "object", "type", "getattr")),
    *(f"collections.{name}" for name in ("OrderedDict", "defaultdict", "deque", "Counter")),
    *(f"pathlib.{name}" for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath", "Path")),
    *("functools.partial", "argparse.Namespace", "typing.Any", "copyreg._reconstructor", "datetime.datetime"),
    *("datetime.timedelta", "enum.Enum", "decimal.Decimal", "uuid.UUID", "_codecs.encode"),
}


class Refused(ValueError):
    """A pickle wants what no checkpoint has a use for; `str` names it."""


class LightningContent(NamedTuple):
    """State dict of a checkpoint, and the plain numbers among its hyper-parameters by dotted names."""

    state: dict[str, Tensor]
    numbers: dict[str, float]


class Inert:
    """Stand-in for an object of a class that is not imported. It takes whatever a pickle gives it."""

    origin = ""

    def __new__(cls, *arguments: Any, **_: Any) -> "Inert":
        made = super().__new__(cls)
        made.arguments, made.state, made.entries, made.members = arguments, {}, {}, []
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    arguments: tuple[Any, ...]
    state: Any
    entries: dict[Any, Any]  # of a dictionary
    members: list[Any]  # of a list or a set

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, value: Any) -> None:
        self.members.append(value)

    def extend(self, values: Any) -> None:
        self.members.extend(values)

    def add(self, value: Any) -> None:
        self.members.append(value)

    def __call__(self, *_: Any, **__: Any) -> Any:
        owner = getattr(self.arguments[0], "origin", "") if self.origin == "builtins.getattr" and self.arguments else ""
        raise Refused(f"a call of {owner}.{self.arguments[1]}" if owner else f"a call of a {self.origin}")

    def __hash__(self) -> int:
        return id(self)


class _Storage(NamedTuple):
    """Numbers in the archive, read when they are asked for."""

    dtype: torch.dtype
    record: str


class _Stored(NamedTuple):
    """A tensor that is not read yet."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild(storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> _Stored:
    return _Stored(storage, offset, size, stride)


def _parameter(data: Any, *_: Any) -> Any:
    return data


class _Unpickler(pickle.Unpickler):
    """Reads plain values, and placeholders for everything else."""

    def __init__(self, file: BinaryIO, prefix: str) -> None:
        super().__init__(file)
        self.prefix = prefix

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        known = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": _rebuild,
            "torch._utils._rebuild_parameter": _parameter,
        }
        # Pickles of protocol 2, which torch writes, have the names of Python 2: exec is one of __builtin__.
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if full in known:
            return known[full]
        if module.partition(".")[0] in sys.stdlib_module_names and full not in _HARMLESS:
            raise Refused(full)
        return type(name.rpartition(".")[2], (Inert,), {"origin": full})

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise Refused(f"a stored {kind!r}")
        return _Storage(dtype, f"{self.prefix}/data/{key}")


def read_lightning(path: Path, mapped: bool = False) -> LightningContent | None:
    """Weights and numbers of a Lightning checkpoint; None for any other file. Nothing in it is executed.

    `mapped`: leave the weights in the file.
    Raises: Refused for names that only code has a use for.
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if (prefix := _prefix(archive)) is None:
            return None
        content = _entries(_unpickled(archive, prefix))
        if content is None or not {"state_dict", "hyper_parameters"} <= content.keys():
            return None
        stored = _entries(content["state_dict"])
        if stored is None or not all(isinstance(value, _Stored) for value in stored.values()):
            return None
        state = {str(name): _tensor(path, archive, value, mapped) for name, value in stored.items()}
    return LightningContent(state, dict(_numbers(content["hyper_parameters"], "hyper_parameters", set())))


def _prefix(archive: zipfile.ZipFile) -> str | None:
    """The folder within the archive, if it is torch's, of this machine's byte order, and no TorchScript."""
    names = archive.namelist()
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if len(pickles) != 1 or any(name.endswith("constants.pkl") for name in names):
        return None
    prefix = pickles[0].rpartition("/")[0]
    order = f"{prefix}/byteorder"
    return None if order in names and archive.read(order) != b"little" else prefix


def _unpickled(archive: zipfile.ZipFile, prefix: str) -> Any:
    with archive.open(f"{prefix}/data.pkl") as file:
        try:
            return _Unpickler(file, prefix).load()  # type: ignore[arg-type]
        except (TypeError, AttributeError) as error:  # something was done to a value that values do not take
            raise Refused(f"a pickle that is no data: {error}") from error


def _entries(value: Any) -> Mapping[Any, Any] | None:
    """Keys and values of a dictionary, or of a placeholder of one, as Lightning's hyper-parameters are; else None."""
    if isinstance(value, Inert):
        return value.entries
    return value if isinstance(value, Mapping) else None


def _tensor(path: Path, archive: zipfile.ZipFile, stored: _Stored, mapped: bool) -> Tensor:
    info = archive.getinfo(stored.storage.record)
    if info.compress_type != zipfile.ZIP_STORED:
        raise Refused(f"a compressed {stored.storage.record}")
    if not info.file_size:
        return torch.zeros(stored.size, dtype=stored.storage.dtype)
    raw = np.memmap(path, np.uint8, "c", offset=_start(path, info), shape=(info.file_size,))
    flat = torch.from_numpy(raw).view(stored.storage.dtype)
    tensor = flat.as_strided(stored.size, stored.stride, stored.offset)
    return tensor if mapped else tensor.clone()


def _start(path: Path, info: zipfile.ZipInfo) -> int:
    """Offset in the file at which the bytes of a stored member begin."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    return info.header_offset + 30 + name + extra


Numbers = list[tuple[str, float]]


def _numbers(value: Any, name: str, seen: set[int]) -> Numbers:
    """Numbers in nested dictionaries and sequences, and in all that placeholders were given, by dotted names.

    `seen`: containers that were looked into, which may hold each other.
    """
    if isinstance(value, int | float):
        return [] if isinstance(value, bool) else [(name, value)]
    if isinstance(value, _Stored | _Storage) or id(value) in seen:
        return []
    seen.add(id(value))
    if isinstance(value, Inert):
        return _of_placeholder(value, name, seen)
    if isinstance(value, Mapping):
        return _of_mapping(value, name, seen)
    return _of_sequence(value, name, seen) if isinstance(value, list | tuple) else []


def _of_placeholder(value: Inert, name: str, seen: set[int]) -> Numbers:
    given = [value.state, value.arguments, value.entries, value.members]
    return [pair for part in given for pair in _numbers(part, name, seen)]


def _of_mapping(value: Mapping[Any, Any], name: str, seen: set[int]) -> Numbers:
    return [pair for key, inner in value.items() for pair in _numbers(inner, f"{name}.{key}", seen)]


def _of_sequence(value: Iterable[Any], name: str, seen: set[int]) -> Numbers:
    return [pair for inner in value for pair in _numbers(inner, name, seen)]
