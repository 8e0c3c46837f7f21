"""Connect to the Ray cluster there is, or start one on this machine."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import ray


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
    if ray.is_initialized():
        yield _describe()
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    else:
        ray.init(
            address="local",
            num_cpus=config.num_cpus or usable_cpus(),
            num_gpus=config.num_gpus,
            include_dashboard=dashboard,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    try:
        yield _describe()
    finally:
        ray.shutdown()


def _describe() -> Cluster:
    resources = ray.cluster_resources()
    local = not os.environ.get("RAY_ADDRESS")
    return Cluster(cpus=int(resources.get("CPU", 1)), gpus=int(resources.get("GPU", 0)), local=local)
