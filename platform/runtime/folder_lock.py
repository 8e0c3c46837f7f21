"""A results folder belongs to one job at a time."""

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from threading import Lock

from .progress import say

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
PATIENCE_S = 2.0  # for a job that is ending, or the workers of one that was killed
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)

_held: dict[Path, int] = {}  # how many times this process holds a folder
_guard = Lock()


class FolderInUse(RuntimeError):
    """Another job writes to the folder."""


@contextmanager
def holding(folder: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Hold `folder`, which exists, for this process during a `with`, which may be nested.

    The lock is the system's (flock) on a file in the folder, so that it ends with the process, however that ends; its
    content says who holds it. On NFS Linux makes it a lock of the server, which all hosts see; that of a host which is
    gone is freed when its lease ends (NFS 4, about a minute and a half), or not before that host is up again (NFS 3).
    Lustre has it with the mount option `flock`. Where a file system has no locks, the job goes on without, and says so.

    Raises: FolderInUse, which names the holder, when it is held by another process for longer than `patience_s`.
    """
    folder = folder.resolve()
    with _guard:
        nested = folder in _held
        _held[folder] = _held.get(folder, 0) + 1
    descriptor = None
    try:
        if not nested and fcntl is not None:
            descriptor = _acquire(folder, patience_s)
        yield
    finally:
        with _guard:
            _held[folder] -= 1
            if not _held[folder]:
                del _held[folder]
        if descriptor is not None:
            os.ftruncate(descriptor, 0)
            os.close(descriptor)  # the file stays: who waits for it has it open


def _acquire(folder: Path, patience_s: float) -> int | None:
    """Return the descriptor that holds the lock; None where there are no locks."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise ValueError(f"{folder} cannot be written to: give another out=") from error
    deadline = time.monotonic() + patience_s
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in NO_LOCKS:
                    say(f"note: {folder} lies where files cannot be locked: start no second job in it meanwhile")
                    os.close(descriptor)
                    return None
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                if time.monotonic() > deadline:
                    raise FolderInUse(
                        f"{folder} is in use by {_holder(folder)}: wait until that has ended, or give another out="
                    ) from None
                time.sleep(0.1)
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(holder).encode())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _holder(folder: Path) -> str:
    """Describe who holds the folder."""
    with suppress(OSError, ValueError, KeyError):
        found = json.loads((folder / LOCK).read_text())
        since = datetime.fromtimestamp(found["since"]).strftime("%Y-%m-%d %H:%M:%S")
        return f"process {found['pid']} on {found['host']}, since {since}"
    return "another job"
