"""Proposals and SMC particles in blocks that stay with the workers: the driver holds their scalars."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from boltzray.samplers import Move, MoveInfo, Particles, bins_com_log_density, ess, merge_infos
from boltzray.samplers.types import FloatArray, IntArray

from ..runtime.progress import progress
from ..runtime.workers import Call, Workers, in_order
from .block_files import blocks_per_part, has_array, has_part, load_part, part_path, save_part
from .flow_actors import Origin


class Request(NamedTuple):
    """Ask for `n` draws, with files in `folder`; `extra`: further arguments of the server's `draw`."""

    n: int
    seed: int
    folder: Path
    extra: tuple[Any, ...] = ()

    def parts(self, block_size: int, group: int) -> "Iterator[_Part]":
        """Yield the files of the draws, each with the sizes of its blocks."""
        sizes = [min(block_size, self.n - low) for low in range(0, self.n, block_size)]
        for k, first in enumerate(range(0, len(sizes), group)):
            yield _Part(self, part_path(self.folder, k, "draws"), first, sizes[first : first + group])


class _Part(NamedTuple):
    request: Request
    path: Path
    first: int
    sizes: list[int]


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
            center = np.concatenate([load_part(path, "center")["center"] for path in paths])
            term, spread = bins_com_log_density(center, load_part(paths[0], "x")["x"].shape[1])
            self.diagnostics = {"com_spread": spread}
            if np.isfinite(self.log_ratio).any():
                self.diagnostics["ess_without_com"] = ess(self.log_ratio)
            self.log_p = self.log_p + term
        failed = ~np.isfinite(self.energy)
        self.diagnostics["n_failed"] = float(failed.sum())
        if turned := int((~np.isfinite(self.log_p) & ~failed).sum()):
            self.diagnostics["n_turned"] = float(turned)
        self.seconds = float(sum(column["seconds"] for column in columns))

    @property
    def log_ratio(self) -> FloatArray:
        """log π̃ − log q (n,), −inf of what failed."""
        return log_ratio(self.log_p, self.log_q)

    @classmethod
    def sample(cls, workers: Workers, n: int, block_size: int, seed: int, folder: Path) -> "Proposals":
        """Sample `n` conformations and evaluate their energies."""
        return cls.sample_all(workers, [Request(n, seed, folder)], block_size)[0]

    @classmethod
    def sample_all(
        cls, workers: Workers, requests: Sequence["Request"], block_size: int, label: str = "draw"
    ) -> list["Proposals"]:
        """Sample what is asked for, all of it at once: no worker waits for the end of one request."""
        group = blocks_per_part(block_size)
        parts = [part for request in requests for part in request.parts(block_size, group)]
        missing = [part for part in parts if not has_part(part.path, sum(part.sizes))]
        todo = [(part, k) for part in missing for k in range(len(part.sizes))]
        calls: list[Call] = [
            (part.request.seed, part.first + k, part.sizes[k], *part.request.extra) for part, k in todo
        ]
        waiting: dict[Path, dict[int, Any]] = defaultdict(dict)
        n = sum(sum(part.sizes) for part in parts)
        began, done = time.monotonic(), n - sum(part.sizes[k] for part, k in todo)
        with progress(label, n, done) as update:
            for index, result in workers.completed("draw", calls):
                part, k = todo[index]
                waiting[part.path][k] = result
                if len(waiting[part.path]) == len(part.sizes):
                    _save_proposals(workers, part.path, waiting.pop(part.path), time.monotonic() - began)
                    began = time.monotonic()
                done += part.sizes[k]
                update(done, f"{done}/{n} conformations")
        paths = [[part.path for part in parts if part.request is request] for request in requests]
        return [cls(of_one, block_size) for of_one in paths]

    def blocks(self, rows: IntArray) -> Iterator[np.ndarray]:
        """Blocks x (B, N, 3) of the proposals `rows`, ascending; a file at a time is in memory."""
        size = self.block_size * blocks_per_part(self.block_size)
        held, x = -1, np.empty(0)
        for low in range(0, len(rows), self.block_size):
            part = rows[low : low + self.block_size]
            pieces = []
            for file in np.unique(part // size).tolist():
                if file != held:
                    held, x = file, load_part(self.paths[file], "x")["x"]
                pieces.append(x[part[part // size == file] % size])
            yield np.concatenate(pieces)


def log_ratio(log_p: FloatArray, log_q: FloatArray) -> FloatArray:
    """log π̃ − log q (n,), −inf where one of them is not finite."""
    usable = np.isfinite(log_p) & np.isfinite(log_q)
    return np.where(usable, log_p, -np.inf) - np.where(usable, log_q, 0.0)


def _save_proposals(workers: Workers, path: Path, results: dict[int, Any], seconds: float) -> None:
    order = [results[block] for block in sorted(results)]
    columns = {name: np.concatenate([scalars[name] for _, scalars in order]) for name in order[0][1]}
    save_part(
        path,
        x=np.concatenate(workers.get([x for x, _ in order])),
        **columns,
        seconds=np.float64(seconds),
    )


class BlockPopulation:
    """SMC's particles in blocks that stay with the workers; see `samplers.Population`."""

    def __init__(
        self,
        workers: Workers,
        blocks: Sequence[Any],
        log_q: FloatArray,
        log_p: FloatArray,
        block_size: int,
        seed: int,
    ) -> None:
        self.workers, self.block_size, self.seed = workers, block_size, seed
        self.blocks, self.log_q, self.log_p = list(blocks), log_q, log_p
        self._ancestors: IntArray | None = None

    @classmethod
    def start(cls, workers: Workers, x: Iterator[np.ndarray], block_size: int, seed: int) -> "BlockPopulation":
        """Evaluate proposals given in blocks."""
        calls = [(workers.put(part),) for part in x]
        population = cls(workers, [], np.empty(0), np.empty(0), block_size, seed)
        population._take(in_order(workers.completed("start", calls)))
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
            calls.append((order, self.seed, i, origin, *sources))
        results = in_order(self.workers.completed("move", calls))
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
            blocks = self.workers.get(self.blocks[low : low + group])
            save_part(
                part_path(folder, part),
                **{name: np.concatenate([b[name] for b in blocks]) for name in Particles._fields},
            )

    @classmethod
    def load(cls, workers: Workers, paths: Sequence[Path], block_size: int, seed: int) -> "BlockPopulation":
        """Read the population that was saved, bit for bit."""
        blocks, log_q, log_p = [], [], []
        for path in paths:
            arrays = load_part(path, *Particles._fields)
            log_q.append(arrays["log_q"])
            log_p.append(arrays["log_p"])
            for low in range(0, len(arrays["x"]), block_size):
                part = {name: array[low : low + block_size] for name, array in arrays.items()}
                blocks.append(workers.put(part))
        return cls(workers, blocks, np.concatenate(log_q), np.concatenate(log_p), block_size, seed)
