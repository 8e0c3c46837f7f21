"""Files of a data folder, on this machine or behind a URL that fsspec knows (hf://, s3://, gs://, memory://)."""

import hashlib
import json
import os
import shutil
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PAUSES_S = (1.0, 4.0, 16.0)  # between tries of a remote file: stores fail now and then


def is_url(path: str | Path) -> bool:
    """Return True if fsspec has to open it."""
    return "://" in str(path)


def join(folder: str | Path, *parts: str) -> str:
    """A path below a folder or URL."""
    return "/".join([str(folder).rstrip("/"), *parts]) if is_url(folder) else str(Path(folder, *parts))


def list_files(folder: str | Path, pattern: str) -> dict[str, int]:
    """Files below `folder` whose relative path matches, in order of name, and the bytes of each."""
    if not is_url(folder):
        return {str(path): path.stat().st_size for path in sorted(Path(folder).glob(pattern))}
    files, root = _open(str(folder))
    found = files.glob(f"{root.rstrip('/')}/{pattern}", detail=True)
    return {files.unstrip_protocol(name): int(facts["size"] or 0) for name, facts in sorted(found.items())}


def read_bytes(path: str | Path) -> bytes:
    """All of a file; what a remote store fails to give is asked for again a few times.

    Raises: OSError when it cannot be read.
    """
    if not is_url(path):
        return Path(path).read_bytes()
    for pause in (*PAUSES_S, None):
        try:
            files, name = _open(str(path))
            return bytes(files.cat_file(name))
        except FileNotFoundError:
            raise
        except OSError:
            if pause is None:
                raise
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to, which becomes `path` when the `with` ends well.

    A reader sees the whole file or the one before it, whenever this process or the machine stops. When the `with` ends
    with an error, what was written is removed. It may be read by whom the umask lets, whichever library wrote it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # a suffix that no pattern of ours matches
    temporary.touch()
    mode = temporary.stat().st_mode
    temporary.unlink()  # some libraries want to make it
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors leaves files that only their owner can read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # else a crash may leave the new name with no content
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


# What reading an archive of arrays raises where it is damaged: a flipped bit makes it encrypted, or enormous.
BAD_ARCHIVE = (
    OSError, ValueError, KeyError, IndexError, TypeError, EOFError, OverflowError, MemoryError, RuntimeError,
    SyntaxError, zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip


class DamagedFile(ValueError):
    """A file that is not what was written: cut off, changed, or another one's."""


@contextmanager
def sealing(path: Path) -> Iterator[Path]:
    """As `replacing`, and leave a seal beside the file by which `check_seal` tells whether it is still the same."""
    with replacing(path) as temporary:
        yield temporary
        before = _seal(path).read_text().split()[:1] if _seal(path).exists() else []
        sums = dict.fromkeys([sha256(temporary), *before])  # of a file that a crash leaves as it was, the second holds
        with replacing(_seal(path)) as beside:
            beside.write_text("\n".join(sums) + "\n")


def seal(path: Path) -> None:
    """Seal a file that is there, and is complete."""
    with replacing(_seal(path)) as temporary:
        temporary.write_text(sha256(path) + "\n")


def check_seal(path: Path) -> None:
    """Compare a file with its seal. One without a seal is of an earlier version, and passes.

    Raises: DamagedFile if it is not what was written; FileNotFoundError.
    """
    if _seal(path).exists() and sha256(path) not in _seal(path).read_text().split():
        raise DamagedFile(f"{path} is damaged: it is not what was written there")


def read_json(path: Path) -> Any:
    """Content of a JSON file, whose seal is checked if it has one. Raises: DamagedFile, FileNotFoundError."""
    check_seal(path)
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DamagedFile(f"{path} is damaged: it holds no JSON ({error})") from None


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder, so that it is made again. Returns its new name."""
    aside = path.with_name(f"damaged-{path.name}")
    if aside.is_dir():
        shutil.rmtree(aside)
    path.replace(aside)
    _seal(path).unlink(missing_ok=True)
    return aside


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _open(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # the store's package is missing, or there is no such protocol
        raise ValueError(f"{url} cannot be opened: {error}") from error
