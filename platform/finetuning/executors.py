"""Requests of a finetuning's rounds to their workers, which are threads of this process or Ray actors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.progress import say
from ..runtime.workers import Restarted, Workers, in_order
from ..sampling.block_files import load_part
from ..sampling.flow_actors import flow_workers
from ..sampling.population import BlockPopulation, Proposals, Request
from ..sampling.target import Target
from .config import FinetuneJob
from .server import FinetuneServer
from .train_step import RoundData, RoundSpec, StepReport


class Executor:
    """Draws from the flow and teaches it. Results depend on arguments and on the folder of weights alone.

    All workers draw and move, the first one learns, on the cores of those that are on its machine. One that dies comes
    back, and its work is done again.
    """

    def __init__(self, workers: Workers, block_size: int) -> None:
        self.workers, self.block_size = workers, block_size
        self._begun: tuple[int, RoundSpec, Any, dict[str, Any] | None] | None = None

    def reload(self) -> None:
        """Take over the weights and the target that the folder has now."""
        self.workers.everywhere("reload")

    def draw(self, requests: Sequence[Request], label: str) -> list[Proposals]:
        """Draw proposals of all peptides, and evaluate their targets; parts that are on disk are not made again."""
        return Proposals.sample_all(self.workers, requests, self.block_size, label)

    def start(self, drawn: Proposals, n: int, seed: int) -> BlockPopulation:
        """Make particles of the first `n` proposals."""
        return BlockPopulation.start(self.workers, drawn.blocks(np.arange(n)), self.block_size, seed)

    def load(self, paths: Sequence[Path], seed: int) -> BlockPopulation:
        """Read particles that were saved."""
        return BlockPopulation.load(self.workers, paths, self.block_size, seed)

    def teacher_log_prob(self, teacher: Path, paths: Sequence[Path], pdb: str) -> np.ndarray:
        """log q (n,) of the teacher for the conformations of a peptide in parts on disk."""
        calls = [(str(teacher), self.workers.put(x), pdb) for x in _blocks(paths, self.block_size)]
        return np.concatenate(in_order(self.workers.completed("teacher_log_prob", calls, keep=False)))

    def begin(self, spec: RoundSpec, data: Sequence[RoundData], state: dict[str, Any] | None) -> None:
        """Start a round of learning, or go on with it from `state`."""
        self._begun = self.workers.beside(), spec, self.workers.put(data), state
        self._call("begin", *self._begun)

    def learn(self, seconds: float) -> StepReport:
        """Take steps for so many seconds, one at least."""
        report: StepReport = self._call("learn", seconds)
        assert self._begun is not None
        self._begun = *self._begun[:-1], report.state
        return report

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call the learner; one that died begins again where it last reported."""
        while True:
            try:
                return self.workers.first(method, *arguments)
            except Restarted:
                say("the learner's process died: it goes on from its last report")
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
    on = (job.where, job.energy, job.cluster)
    with flow_workers(folder, target, *on, energies=job.all_energies, server=FinetuneServer) as workers:
        yield Executor(workers, job.smc.block_size)
