"""Executors of a finetuning's rounds: in this process, or on Ray actors; bit-identical."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import ray
import torch
from ray.exceptions import RayActorError

from boltzray.samplers import LocalPopulation, Particles, Population

from ..runtime.actor_pool import fetch, run_on
from ..runtime.cluster import cluster
from ..runtime.progress import progress, say
from ..sampling.block_files import blocks_per_part, has_part, load_part, part_path, save_part
from ..sampling.energy_actors import LocalEnergies
from ..sampling.flow_actors import start_actors
from ..sampling.ray_population import Proposals, RayPopulation, save_proposals
from ..sampling.smc_checkpoint import Saves
from ..sampling.target import Target
from .config import FinetuneJob
from .server import FinetuneServer
from .train_step import RoundData, RoundSpec, StepReport


class SavedPopulation(Population, Saves, Protocol):
    """Population of SMC that can be written to disk."""


class Executor(Protocol):
    """Holds the flow, draws from it and teaches it. Results depend on arguments and on the folder of weights alone."""

    def reload(self) -> None:
        """Take over the weights and the target that the folder has now."""
        ...

    def draw(self, n: int, seed: int, folder: Path) -> Proposals:
        """Draw `n` proposals and evaluate their target, in parts in `folder`; parts that exist are not made again."""
        ...

    def start(self, drawn: Proposals, n: int, seed: int) -> SavedPopulation:
        """The first `n` proposals as particles."""
        ...

    def load(self, paths: Sequence[Path], seed: int) -> SavedPopulation:
        """Particles that were saved."""
        ...

    def teacher_log_prob(self, teacher: Path, paths: Sequence[Path]) -> np.ndarray:
        """log q (n,) of the teacher for the conformations in parts on disk."""
        ...

    def begin(self, spec: RoundSpec, data: RoundData, state: dict[str, Any] | None) -> None:
        """Start a round of learning, or go on with it from `state`."""
        ...

    def learn(self, seconds: float) -> StepReport:
        """Take steps for so many seconds, one at least."""
        ...


class LocalExecutor:
    """Runs everything in this process, on one thread."""

    def __init__(self, job: FinetuneJob, folder: Path, target: Target) -> None:
        self.block_size = job.smc.block_size
        self.server = FinetuneServer(str(folder), target, partial(LocalEnergies, target.molecule, job.energy))

    def reload(self) -> None:
        self.server.reload()

    def draw(self, n: int, seed: int, folder: Path) -> Proposals:
        rows = self.block_size * blocks_per_part(self.block_size)
        paths = [part_path(folder, k, "draws") for k in range(-(-n // rows))]
        with progress("draw", n) as update:
            for k, path in enumerate(paths):
                if not has_part(path, min(n, (k + 1) * rows) - k * rows):
                    self._draw_part(path, k * rows, min(n, (k + 1) * rows), seed)
                update(min(n, (k + 1) * rows), f"{min(n, (k + 1) * rows)}/{n} conformations")
        return Proposals(paths, self.block_size)

    def _draw_part(self, path: Path, low: int, high: int, seed: int) -> None:
        began = time.monotonic()
        blocks, targets = [], []
        for first in range(low, high, self.block_size):
            proposed = self.server.propose(seed, first // self.block_size, min(self.block_size, high - first))
            blocks.append(proposed)
            targets.append(self.server.target_log_prob(proposed.x))
        save_proposals(path, blocks, targets, time.monotonic() - began)

    def start(self, drawn: Proposals, n: int, seed: int) -> "LocalParticles":
        x = np.concatenate([load_part(path, "x")["x"] for path in drawn.paths])[:n]
        return LocalParticles.start(torch.from_numpy(x), self.server.evaluate, self.block_size, seed)

    def load(self, paths: Sequence[Path], seed: int) -> "LocalParticles":
        blocks = []
        for path in paths:
            arrays = load_part(path, *Particles._fields)
            for low in range(0, len(arrays["x"]), self.block_size):
                block = {name: array[low : low + self.block_size] for name, array in arrays.items()}
                blocks.append(Particles.from_arrays(block))
        return LocalParticles(blocks, self.server.evaluate, seed)

    def teacher_log_prob(self, teacher: Path, paths: Sequence[Path]) -> np.ndarray:
        return np.concatenate([self.server.teacher_log_prob(str(teacher), x) for x in _blocks(paths, self.block_size)])

    def begin(self, spec: RoundSpec, data: RoundData, state: dict[str, Any] | None) -> None:
        self.server.begin(spec, data, state)

    def learn(self, seconds: float) -> StepReport:
        return self.server.learn(seconds)


class LocalParticles(LocalPopulation):
    """Particles in this process, with the files of `RayPopulation`."""

    def save(self, folder: Path) -> None:
        group = blocks_per_part(max(len(block.x) for block in self.blocks))
        for part, low in enumerate(range(0, len(self.blocks), group)):
            arrays = [block.to_arrays() for block in self.blocks[low : low + group]]
            columns = {name: np.concatenate([block[name] for block in arrays]) for name in Particles._fields}
            save_part(part_path(folder, part), **columns)

    @classmethod
    def start(cls, x: torch.Tensor, evaluate: Any, block_size: int, seed: int) -> "LocalParticles":
        return cls(LocalPopulation.start(x, evaluate, block_size, seed).blocks, evaluate, seed)


class RayExecutor:
    """Flow actors: all draw and move, the first one learns. One that dies comes back, and its work is done again."""

    def __init__(self, flows: Sequence[Any], block_size: int) -> None:
        self.flows, self.block_size = flows, block_size
        self._begun: tuple[RoundSpec, Any, dict[str, Any] | None] | None = None

    def reload(self) -> None:
        for reference in [flow.reload.options(max_task_retries=-1).remote() for flow in self.flows]:
            fetch(reference)

    def draw(self, n: int, seed: int, folder: Path) -> Proposals:
        return Proposals.sample(self.flows, n, self.block_size, seed, folder)

    def start(self, drawn: Proposals, n: int, seed: int) -> RayPopulation:
        return RayPopulation.start(self.flows, drawn.blocks(n), n, self.block_size, seed)

    def load(self, paths: Sequence[Path], seed: int) -> RayPopulation:
        return RayPopulation.load(self.flows, paths, self.block_size, seed)

    def teacher_log_prob(self, teacher: Path, paths: Sequence[Path]) -> np.ndarray:
        def call(x: Any, actor: Any) -> Any:
            return actor.teacher_log_prob.remote(str(teacher), x)

        blocks = [ray.put(x) for x in _blocks(paths, self.block_size)]
        return np.concatenate(run_on(self.flows, [partial(call, x) for x in blocks]))

    def begin(self, spec: RoundSpec, data: RoundData, state: dict[str, Any] | None) -> None:
        self._begun = spec, ray.put(data), state
        self._call("begin", *self._begun)

    def learn(self, seconds: float) -> StepReport:
        report: StepReport = self._call("learn", seconds)
        assert self._begun is not None
        self._begun = *self._begun[:2], report.state
        return report

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call the learner; one that died begins again where it last reported."""
        while True:
            try:
                return fetch(getattr(self.flows[0], method).remote(*arguments))
            except RayActorError:
                say("the learner's process died: it goes on from its last report")
                ray.get(self.flows[0].__ray_ready__.options(max_task_retries=-1).remote())
                if method != "begin":
                    assert self._begun is not None
                    self._call("begin", *self._begun)


def _blocks(paths: Sequence[Path], block_size: int) -> Iterator[np.ndarray]:
    for path in paths:
        x = load_part(path, "x")["x"]
        yield from (x[low : low + block_size] for low in range(0, len(x), block_size))


@contextmanager
def start_executor(job: FinetuneJob, folder: Path, target: Target) -> Iterator[Executor]:
    """Start the executor of `job`, which reads weights and target in `folder`."""
    if job.in_process:
        threads = torch.get_num_threads()
        try:
            yield LocalExecutor(job, folder, target)
        finally:
            torch.set_num_threads(threads)
        return
    with cluster(job.cluster) as resources:
        actors = start_actors(folder, target, job.actors, job.energy, resources, FinetuneServer)
        try:
            yield RayExecutor(actors.flows, job.smc.block_size)
        finally:
            actors.stop()
