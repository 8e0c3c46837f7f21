"""Which core a worker process computes on: each takes one that no other BoltzRay process on the machine has."""

import os
import tempfile
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
