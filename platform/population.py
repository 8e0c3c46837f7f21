"""Proposals and SMC particles in blocks on the object store: the driver holds their scalars."""

from functools import partial
from typing import Any

import numpy as np
import ray

from samplers import Move, MoveInfo, merge_infos

from .pool import run_on
from .progress import progress


class Proposals:
    """Draws of the flow in blocks that stay in the object store, with their scalars here."""

    def __init__(self, blocks: list[Any], log_q: np.ndarray, log_p: np.ndarray, energy: np.ndarray) -> None:
        self.blocks, self.log_q, self.log_p, self.energy = blocks, log_q, log_p, energy

    @classmethod
    def draw(cls, flows: list[Any], n: int, block_size: int, seed: int) -> "Proposals":
        """Draw `n` conformations and evaluate their energies: block by block, so that both go on at once."""
        sizes = [min(block_size, n - start) for start in range(0, n, block_size)]

        def call(block: int, size: int, actor: Any) -> list[Any]:
            x, log_q = actor.draw.options(num_returns=2).remote(seed, block, size)
            return [x, log_q, actor.weigh.remote(x)]

        with progress("draw", len(sizes)) as update:
            calls = [partial(call, block, size) for block, size in enumerate(sizes)]
            done = run_on(flows, calls, lambda k: update(k, f"{min(n, k * block_size)}/{n} conformations"))
        log_q = np.concatenate(ray.get([q for _, q, _ in done]))
        log_p = np.concatenate([scalars[0] for _, _, scalars in done])
        energy = np.concatenate([scalars[1] for _, _, scalars in done])
        return cls([x for x, _, _ in done], log_q, log_p, energy)

    def positions(self) -> np.ndarray:
        """All draws (n, N, 3), normalised."""
        return np.concatenate(ray.get(self.blocks))


class RayPopulation:
    """SMC's particles in blocks on the object store; see `samplers.Population`."""

    def __init__(self, flows: list[Any], results: list[Any], block_size: int, seed: int) -> None:
        self.flows, self.block_size, self.seed = flows, block_size, seed
        self._take(results)

    @classmethod
    def start(cls, flows: list[Any], x: np.ndarray, block_size: int, seed: int) -> "RayPopulation":
        parts = [ray.put(x[lo : lo + block_size]) for lo in range(0, len(x), block_size)]
        calls = [partial(_two, "start", (part,)) for part in parts]
        return cls(flows, run_on(flows, calls), block_size, seed)

    def _take(self, results: list[Any]) -> None:
        self.blocks = [block for block, _ in results]
        self.log_q = np.concatenate([scalars[0] for _, scalars in results])
        self.log_p = np.concatenate([scalars[1] for _, scalars in results])

    def scalars(self) -> tuple[np.ndarray, np.ndarray]:
        return self.log_q, self.log_p

    def move(self, order: Move) -> MoveInfo:
        calls = [partial(_two, "move", (b, order, self.seed, i)) for i, b in enumerate(self.blocks)]
        results = run_on(self.flows, calls)
        self._take(results)
        return merge_infos([scalars[2] for _, scalars in results])

    def resample(self, ancestors: np.ndarray) -> None:
        calls = []
        for lo in range(0, len(ancestors), self.block_size):
            part = ancestors[lo : lo + self.block_size]
            indices = np.unique(part // self.block_size)
            sources = [self.blocks[i] for i in indices]
            calls.append(partial(_two, "gather", (part, self.block_size, indices.tolist(), *sources)))
        self._take(run_on(self.flows, calls))

    def positions(self) -> np.ndarray:
        """All particles (n, N, 3), normalised."""
        return np.concatenate([block["x"] for block in ray.get(self.blocks)])


def _two(method: str, arguments: tuple[Any, ...], actor: Any) -> list[Any]:
    return list(getattr(actor, method).options(num_returns=2).remote(*arguments))
