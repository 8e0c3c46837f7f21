"""Energies of any number of conformations of several peptides, on all cores of the cluster."""

from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import ray

from boltzray.molecules.energy import EnergyBatch

from ..runtime.actor_pool import run_on
from ..runtime.cluster import Cluster
from .energy_actors import EnergyConfig, Molecule, start_servers

CHUNK = 512  # conformations a call: a second of OpenMM's, and enough to fill a batch


class EnergyPool:
    """Energy actors, one a core, for the driver. A `with` ends them.

    An actor that dies is restarted and its chunks are evaluated again; the answers do not depend on it.
    """

    def __init__(self, config: EnergyConfig, resources: Cluster, *, actors: int = 0) -> None:
        _, self.actors = start_servers(config, actors or resources.cpus, num_cpus=1)

    def evaluate(
        self,
        requests: Sequence[tuple[Molecule, np.ndarray]],
        gradient: bool = False,
        *,
        chunk: int = CHUNK,
        on_done: Callable[[int], None] | None = None,
    ) -> list[EnergyBatch]:
        """Energies of each request's x (B, N, 3) in nm, in order. `on_done` hears how many chunks are done.

        Each x is put into the object store once, and an actor has two chunks waiting at most.
        Raises: ValueError for an x that does not fit its molecule; RuntimeError for one that ends its actor each time.
        """
        calls: list[Callable[[Any], Any]] = []
        counts = []
        for molecule, x in requests:
            reference = ray.put(np.asarray(x))
            lows = range(0, max(1, len(x)), chunk)
            rows = [(low, min(low + chunk, len(x))) for low in lows]
            calls += [partial(_evaluate, molecule, reference, gradient, part) for part in rows]
            counts.append(len(rows))
        results = iter(run_on(self.actors, calls, on_done))
        return [EnergyBatch.joined([next(results) for _ in range(count)]) for count in counts]

    def close(self) -> None:
        """End the actors at once."""
        for actor in self.actors:
            ray.kill(actor)

    def __enter__(self) -> "EnergyPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _evaluate(molecule: Molecule, x: Any, gradient: bool, rows: tuple[int, int], actor: Any) -> Any:
    return actor.evaluate.remote(molecule, x, gradient, rows)
