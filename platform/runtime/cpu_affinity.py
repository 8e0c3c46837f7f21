"""Settings of a worker: a core that no other worker of BoltzRay has, and memory that stays."""

import ctypes
import os
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

_held: dict[int, tuple[int, FileLock | None]] = {}  # by thread: its core, and the lock on it if it is not shared


def own_core() -> int | None:
    """Reserve a core for this thread alone, the same at every call; None where threads cannot be pinned.

    Two OpenMM contexts pinned to one core would run at half their speed while another idles. The lock is the system's
    on a file, so it ends with the process, however that ends. When every core is taken, one is shared.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    thread = threading.get_ident()
    if thread in _held:
        return _held[thread][0]
    cores = sorted(os.sched_getaffinity(0))
    for core in cores:
        path = Path(tempfile.gettempdir()) / f"boltzray-{os.getuid()}-core-{core}.lock"
        lock = FileLock(path, mode=0o600, thread_local=False)
        with suppress(Timeout):
            lock.acquire(timeout=0)
            _held[thread] = core, lock
            return core
    shared = cores[(os.getpid() + len(_held)) % len(cores)]
    _held[thread] = shared, None
    return shared


def release_core() -> None:
    """Give back the core of this thread, which ends; a process that ends need not."""
    _, lock = _held.pop(threading.get_ident(), (0, None))
    if lock:
        lock.release()


def keep_memory() -> None:
    """Tell glibc to keep freed blocks: batched energies ask for the same again, and would fault in every page anew.

    As the environment variables `MALLOC_TRIM_THRESHOLD_` and `MALLOC_MMAP_THRESHOLD_`, for a process that runs already.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):  # another libc
        library = ctypes.CDLL(None)
        trim_threshold, mmap_threshold = -1, -3
        library.mallopt(trim_threshold, 2**30)
        library.mallopt(mmap_threshold, 2**25)  # the most that glibc takes
