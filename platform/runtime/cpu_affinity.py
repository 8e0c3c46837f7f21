"""What a worker process does to its machine: a core that no other BoltzRay process has, and memory that stays."""

import ctypes
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

_held: dict[int, int] = {}  # core → descriptor of its lock, for the life of the process


def own_core() -> int | None:
    """A core for this process alone, the same at every call; None where processes cannot be pinned.

    Two OpenMM contexts pinned to one core would run at half their speed while another idles. The claim is a lock on
    a file, so it ends with the process, however that ends. When every core is taken, one is shared.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    if _held:
        return next(iter(_held))
    import fcntl  # not on every system that lacks affinities

    cores = sorted(os.sched_getaffinity(0))
    for core in cores:
        path = Path(tempfile.gettempdir()) / f"boltzray-{os.getuid()}-core-{core}.lock"
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        _held[core] = descriptor
        return core
    return cores[os.getpid() % len(cores)]


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
