"""The process group of Train's workers, with a store that listens on its node's address.

torch's own rendezvous listens on every interface, also where all of Ray is on loopback. Ray has no public way to
replace it, so this leans on names that Ray 2.60 keeps to itself (hence `ray<2.61` in pyproject.toml):
`_TorchBackend` and `_set_torch_distributed_env_vars`, and of the worker group that Train's controller hands to
`Backend.on_start`: `get_resources_per_worker`, `execute`, `execute_single`, `execute_single_async` and `len`.
"""

import os
import socket
from datetime import timedelta
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

BACKLOG = 4096  # of listen(): all workers connect at once


class ProcessGroupConfig(TorchConfig):
    """As Ray's, with `timeout_s` alone: NCCL where workers have GPUs, else Gloo."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return ProcessGroup


class ProcessGroup(_TorchBackend):
    """Worker 0 starts the store, all join."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        gpus = worker_group.get_resources_per_worker().get("GPU", 0)
        backend = "nccl" if gpus > 0 else "gloo"
        worker_group.execute(_set_torch_distributed_env_vars)
        address = worker_group.execute_single(0, _start_store)
        size = len(worker_group)
        timeout = timedelta(seconds=backend_config.timeout_s)
        ray.get([worker_group.execute_single_async(i, _join, backend, address, i, size, timeout) for i in range(size)])


_store: dist.TCPStore | None = None  # of worker 0, for the others


def _start_store() -> tuple[str, int]:
    """Start the store in this process; returns its address and port."""
    global _store
    address = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind((address, 0))
        server.listen(BACKLOG)
        port = server.getsockname()[1]
        _store = dist.TCPStore(address, port, is_master=True, wait_for_workers=False, master_listen_fd=server.detach())
    return address, port


def _join(backend: str, address: tuple[str, int], rank: int, size: int, timeout: timedelta) -> None:
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")  # a lost worker ends the others, as Ray has it
    store = _store if rank == 0 else dist.TCPStore(*address, is_master=False, timeout=timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
