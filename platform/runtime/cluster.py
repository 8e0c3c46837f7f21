"""Connect to the Ray cluster there is, or start one on this machine."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from .progress import say

# Of the folder that Ray puts a session into: the name of a socket has at most 107 bytes, on macOS 103.
LONGEST = (107 if sys.platform == "linux" else 103) - len(
    "/ray/session_2026-01-31_12-00-00_000000_1234567/sockets/plasma_store"
)


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """A local cluster's size; both keys are ignored when there is a cluster to connect to.

    `num_cpus` and `num_gpus` default to what the machine has.
    """

    num_cpus: int | None = None
    num_gpus: int | None = None

    def __post_init__(self) -> None:
        if self.num_cpus is not None and self.num_cpus < 1:
            raise ValueError(f"num_cpus={self.num_cpus}: a cluster needs at least 1")


@dataclass(frozen=True)
class Cluster:
    """Resources of the connected cluster."""

    cpus: int
    gpus: int
    local: bool


def usable_cpus() -> int:
    """Count the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count() or 1


@contextmanager
def cluster(config: ClusterConfig, *, dashboard: bool = False) -> Iterator[Cluster]:
    """Connect to a cluster for the length of a `with`.

    `RAY_ADDRESS` (set by hand, or by `ray job submit`) names a cluster to connect to; without it a local one is
    started and stopped again. A cluster that this process is connected to already is used and left alone.

    `dashboard`, of a local cluster: needed by all that runs Ray Train or Tune, which ask its State API whether a killed
    trial or controller has left a placement group behind. It takes seconds and 1 GB of memory; metrics are exported
    without it, too.
    """
    import ray  # a second, and processes of a cluster: not where work is done in this process

    if ray.is_initialized():
        yield _describe()
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        address = "local"
        options |= {
            "num_cpus": config.num_cpus or usable_cpus(),
            "num_gpus": config.num_gpus,
            "include_dashboard": dashboard,
            "_temp_dir": temporary_folder(),
        }
    try:
        _start(address, options)
        yield _describe()
    finally:
        ray.shutdown()


def _start(address: str, options: dict[str, Any]) -> None:
    """Start or join a cluster. Raises: RuntimeError where that does not work, in time or at all."""
    import ray

    say("starting Ray on this machine" if address == "local" else "connecting to the Ray cluster")
    try:
        ray.init(address=address, **options)
    except Exception as error:
        if type(error) is not Exception:  # Ray raises bare ones, of a node that is late above all
            raise
        raise RuntimeError(f"Ray did not start ({error}): if the machine was busy, the same command again") from error


def temporary_folder() -> str | None:
    """Return where a local cluster keeps its sockets and logs; None for the folder that Ray chooses, if it is short.

    Raises: ValueError, which says what to set, when there is no folder whose sockets have names of a legal length.
    """
    variable = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ or sys.platform != "linux" else "TMPDIR"
    folder = os.environ.get(variable, "/tmp")
    if len(os.fsencode(folder)) <= LONGEST:
        return None
    if variable == "TMPDIR" and os.access("/tmp", os.W_OK | os.X_OK):
        say("note: TMPDIR is too long for names of sockets: Ray uses /tmp/ray (RAY_TMPDIR chooses another)")
        return "/tmp/ray"
    raise ValueError(
        f"{variable}={folder} is too long for Ray's sockets: set RAY_TMPDIR to a folder of at most {LONGEST} characters"
    )


def _describe() -> Cluster:
    import ray

    resources = ray.cluster_resources()
    local = not os.environ.get("RAY_ADDRESS")
    return Cluster(cpus=int(resources.get("CPU", 1)), gpus=int(resources.get("GPU", 0)), local=local)
