"""Proposals and SMC particles in blocks on the object store: the driver holds their scalars."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray

from boltzray.samplers import Move, MoveInfo, Particles, bins_com_log_density, ess, merge_infos
from boltzray.samplers.types import FloatArray, IntArray

from ..runtime.actor_pool import completed, run_on
from ..runtime.progress import progress
from .block_files import blocks_per_part, has_array, has_part, load_part, part_path, save_part
from .flow_actors import Origin, Proposed


class Proposals:
    """Samples of the flow before weighting: their scalars here, their coordinates in block files.

    A file is written when its last block is there; sampling that is begun again makes only the files that are missing.
    No block is kept: Ray holds what is below 100 kB, as a block of a small peptide is, in the driver itself.
    """

    def __init__(self, paths: list[Path], block_size: int) -> None:
        self.paths, self.block_size = paths, block_size
        columns = [load_part(path, "log_q", "log_p", "energy", "seconds") for path in paths]
        self.log_q, self.log_p, self.energy = (
            np.concatenate([column[name] for column in columns]) for name in ("log_q", "log_p", "energy")
        )
        self.diagnostics: dict[str, float] = {}
        if has_array(paths[0], "center"):
            self._add_center(np.concatenate([load_part(path, "center")["center"] for path in paths]))
        self.seconds = float(sum(column["seconds"] for column in columns))

    def _add_center(self, center: FloatArray) -> None:
        """Complete log π̃ by the term of the centre of mass, which all draws decide: see `Proposed`."""
        n_atoms = load_part(self.paths[0], "x")["x"].shape[1]
        term, spread = bins_com_log_density(center, n_atoms)
        usable = np.isfinite(self.log_p) & np.isfinite(self.log_q)
        without = (self.log_p - self.log_q)[usable]
        self.diagnostics = {"com_spread": spread, **({"ess_without_com": ess(without)} if len(without) else {})}
        self.log_p = self.log_p + term

    @classmethod
    def sample(cls, flows: Sequence[Any], n: int, block_size: int, seed: int, folder: Path) -> "Proposals":
        """Sample `n` conformations and evaluate their energies."""
        sizes = [min(block_size, n - start) for start in range(0, n, block_size)]
        group = blocks_per_part(block_size)
        paths = [part_path(folder, k, "draws") for k in range(-(-len(sizes) // group))]
        rows = [sum(sizes[k * group : (k + 1) * group]) for k in range(len(paths))]
        there = [has_part(path, count) for path, count in zip(paths, rows, strict=True)]
        todo = [block for block in range(len(sizes)) if not there[block // group]]

        def call(block: int, actor: Any) -> list[Any]:
            x, *others = actor.propose.options(num_returns=3).remote(seed, block, sizes[block])
            return [x, *others, actor.target_log_prob.remote(x)]

        waiting: dict[int, dict[int, Any]] = defaultdict(dict)
        began, done = time.monotonic(), len(sizes) - len(todo)
        with progress("draw", len(sizes), done) as update:
            for index, result in completed(flows, [partial(call, block) for block in todo]):
                block, part = todo[index], todo[index] // group
                waiting[part][block] = result
                if len(waiting[part]) == min(group, len(sizes) - part * group):
                    _save_proposals(paths[part], waiting.pop(part), time.monotonic() - began)
                    began = time.monotonic()
                done += 1
                update(done, f"{min(n, done * block_size)}/{n} conformations")
        return cls(paths, block_size)

    def blocks(self, n: int) -> Iterator[Any]:
        """References to the blocks that hold the first `n` proposals."""
        rows = self.block_size * blocks_per_part(self.block_size)
        for path in self.paths[: -(-n // rows)]:
            x = load_part(path, "x")["x"]
            for low in range(0, min(n, len(x)), self.block_size):
                yield ray.put(x[low : low + self.block_size])
            n -= len(x)


def _save_proposals(path: Path, results: dict[int, Any], seconds: float) -> None:
    order = [results[block] for block in sorted(results)]
    proposed = [Proposed(*ray.get(parts[:3])) for parts in order]
    save_proposals(path, proposed, [parts[3] for parts in order], seconds)


def save_proposals(path: Path, blocks: Sequence[Proposed], targets: Sequence[Any], seconds: float) -> None:
    """Write blocks of proposals, with log π̃ and the energies of each, as one file."""
    centers = [block.center for block in blocks if block.center is not None]
    save_part(
        path,
        x=np.concatenate([block.x for block in blocks]),
        log_q=np.concatenate([block.log_q for block in blocks]),
        log_p=np.concatenate([log_p for log_p, _ in targets]),
        energy=np.concatenate([energy for _, energy in targets]),
        seconds=np.float64(seconds),
        **({"center": np.concatenate(centers)} if centers else {}),
    )


class RayPopulation:
    """SMC's particles in blocks on the object store; see `samplers.Population`."""

    def __init__(
        self,
        servers: Sequence[Any],
        blocks: Sequence[Any],
        log_q: FloatArray,
        log_p: FloatArray,
        block_size: int,
        seed: int,
    ) -> None:
        self.servers, self.block_size, self.seed = servers, block_size, seed
        self.blocks, self.log_q, self.log_p = list(blocks), log_q, log_p
        self._ancestors: IntArray | None = None

    @classmethod
    def start(cls, servers: Sequence[Any], x: Iterator[Any], n: int, block_size: int, seed: int) -> "RayPopulation":
        """Evaluate the first `n` of proposals given by references to their blocks."""
        calls = [
            partial(_block_and_scalars, "start", (part, min(block_size, n - i * block_size)))
            for i, part in enumerate(x)
        ]
        population = cls(servers, [], np.empty(0), np.empty(0), block_size, seed)
        population._take(run_on(servers, calls))
        return population

    def _take(self, results: list[Any]) -> None:
        self.blocks = [block for block, _ in results]
        self.log_q = np.concatenate([scalars[0] for _, scalars in results])
        self.log_p = np.concatenate([scalars[1] for _, scalars in results])

    def scalars(self) -> tuple[FloatArray, FloatArray]:
        return self.log_q, self.log_p

    def move(self, order: Move) -> MoveInfo:
        calls = []
        for i in range(len(self.blocks)):
            origin, sources = self._origin(i)
            calls.append(partial(_block_and_scalars, "move", (order, self.seed, i, origin, *sources)))
        results = run_on(self.servers, calls)
        self._ancestors = None
        self._take(results)
        return merge_infos([scalars[2] for _, scalars in results])

    def resample(self, ancestors: IntArray) -> None:
        """Only scalars change now; rows go from block to block with the next move, in the same call."""
        assert self._ancestors is None  # there is a move between any two
        self.log_q, self.log_p = self.log_q[ancestors], self.log_p[ancestors]
        self._ancestors = ancestors

    def _origin(self, index: int) -> tuple[Origin | None, list[Any]]:
        if self._ancestors is None:
            return None, [self.blocks[index]]
        part = self._ancestors[index * self.block_size : (index + 1) * self.block_size]
        needed = np.unique(part // self.block_size).tolist()
        return Origin(part, self.block_size, needed), [self.blocks[i] for i in needed]

    def save(self, folder: Path) -> None:
        """Write all particles with their densities and gradients, in block files below `folder`."""
        assert self._ancestors is None
        group = blocks_per_part(self.block_size)
        for part, low in enumerate(range(0, len(self.blocks), group)):
            blocks = ray.get(self.blocks[low : low + group])
            save_part(
                part_path(folder, part),
                **{name: np.concatenate([b[name] for b in blocks]) for name in Particles._fields},
            )

    @classmethod
    def load(cls, servers: Sequence[Any], paths: Sequence[Path], block_size: int, seed: int) -> "RayPopulation":
        """Read the population that was saved, bit for bit."""
        blocks, log_q, log_p = [], [], []
        for path in paths:
            arrays = load_part(path, *Particles._fields)
            log_q.append(arrays["log_q"])
            log_p.append(arrays["log_p"])
            for low in range(0, len(arrays["x"]), block_size):
                blocks.append(ray.put({name: array[low : low + block_size] for name, array in arrays.items()}))
        return cls(servers, blocks, np.concatenate(log_q), np.concatenate(log_p), block_size, seed)


def _block_and_scalars(method: str, arguments: tuple[Any, ...], actor: Any) -> list[Any]:
    return list(getattr(actor, method).options(num_returns=2).remote(*arguments))
