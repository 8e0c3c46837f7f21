"""Training batches, the same whatever the number of workers.

The windows of `windows`, in order, are one sequence of frames; a pool of so many steps' frames is cut into as many
batches. A `Position` says where a pool begins, and a run continues there.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..runtime.actor_pool import fetch
from .bucketing import Microbatch, cut, gather, split
from .catalogue import Catalogue, count_bad
from .windows import BatchPlan, Frames, StreamState, read


@dataclass(frozen=True)
class RankBatches:
    """One worker's part of a pool: for each step the parts of its batch; what was found bad on the way.

    `failure`: why training cannot go on, else empty.
    """

    start: StreamState
    steps: list[list[Microbatch]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    failure: str = ""


@dataclass
class PendingWindow:
    """A window of which the first `used` frames are in batches; frame i begins at `offsets[i]`."""

    frames: Frames
    offsets: NDArray[np.int64]
    used: int

    @property
    def left(self) -> int:
        return len(self.frames.peptide) - self.used


class BatchServer:
    """Forms the batches, and gives each of `world` workers its own.

    A plain class; with several workers an actor of it. Ray Data's own split over workers gives each block to whoever
    asks first; here who gets what is fixed.
    """

    def __init__(
        self, data: Catalogue, order: BatchPlan, world: int, start: StreamState, problems: Sequence[str]
    ) -> None:
        self.data, self.order, self.world, self.next = data, order, world, start
        self.sizes = np.array([peptide.n_atoms for peptide in data.peptides], np.int64)
        self.seen = set(data.problems) | set(problems)
        self.bad = count_bad(list(self.seen))
        self.failure = ""
        self.windows = read(data, order, start)
        self.skip = start.row
        self.chunks: deque[PendingWindow] = deque()
        self.shares: dict[tuple[int, int], RankBatches] = {}

    def share(self, pool: int, rank: int) -> RankBatches:
        """Worker `rank`'s part of a pool; pools are asked for in order, by every worker once."""
        while (pool, rank) not in self.shares:
            assert pool >= self.next.pool, "every pool is given once"
            self._make()
        return self.shares.pop((pool, rank))

    def _make(self) -> None:
        """Form the next pool."""
        problems = self._fill(self.order.batch * self.order.bucket_steps)
        start, pool = self.next, self.next.pool
        if self.failure:
            self.next = start._replace(pool=pool + 1)
            for rank in range(self.world):
                self.shares[pool, rank] = RankBatches(start, problems=problems, failure=self.failure)
            return
        start = self._position()._replace(pool=pool)
        peptide, starts, values = self._take(self.order.batch * self.order.bucket_steps)
        n_atoms = self.sizes[peptide]
        rng = np.random.default_rng(np.random.SeedSequence(self.order.seed, spawn_key=(2, pool)))
        rows = cut(n_atoms, self.order.bucket_steps, self.order.constant, self.world, rng)
        for rank in range(self.world):
            steps = [
                gather(split(step, rank, self.world, self.order.accumulate), peptide, n_atoms, starts, values)
                for step in rows
            ]
            self.shares[pool, rank] = RankBatches(start, steps, problems)
        self.next = start._replace(pool=pool + 1)

    def _fill(self, n: int) -> list[str]:
        """Read until `n` frames are at hand; returns lines about bad data that are new."""
        new: list[str] = []
        empty = 0
        while sum(chunk.left for chunk in self.chunks) < n and not self.failure:
            frames = next(self.windows)
            offsets = np.concatenate([[0], np.cumsum(3 * self.sizes[frames.peptide])])
            chunk, self.skip = PendingWindow(frames, offsets, self.skip), 0
            if chunk.left:
                self.chunks.append(chunk)
            empty = 0 if chunk.left else empty + 1
            told = [line for line in frames.problems if line not in self.seen]
            self.seen.update(told)
            self.bad += count_bad(told)
            new += told
            if told and self.bad > self.data.max_bad:
                self.failure = (
                    f"{self.bad} of about {self.data.n_frames} frames of an epoch are bad, more than "
                    f"data.max_bad_share allows; the last: {told[-1]}: mend the shards, or raise it"
                )
            elif empty > 2 * len(self.data.shards):
                self.failure = "no shard holds a frame that can be used"
        return new

    def _position(self) -> StreamState:
        first = self.chunks[0]
        return StreamState(0, first.frames.window.epoch, first.frames.window.number, first.used)

    def _take(self, n: int) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float32]]:
        """The next `n` frames: number of the peptide, where each begins in the flat values, the values."""
        peptides, values = [], []
        while n:
            chunk = self.chunks[0]
            rows = slice(chunk.used, chunk.used + min(n, chunk.left))
            peptides.append(chunk.frames.peptide[rows])
            values.append(chunk.frames.x[chunk.offsets[rows.start] : chunk.offsets[rows.stop]])
            n, chunk.used = n - (rows.stop - rows.start), rows.stop
            if not chunk.left:
                self.chunks.popleft()
        peptide = np.concatenate(peptides)
        return peptide, np.concatenate([[0], np.cumsum(3 * self.sizes[peptide])[:-1]]), np.concatenate(values)


class Batch(NamedTuple):
    """One worker's parts of a step's batch; `start` of its pool; what was found bad before it."""

    parts: list[Microbatch]
    start: StreamState
    problems: list[str]
    failure: str


def batches(feeder: Any, rank: int, step: int, order: BatchPlan, start: StreamState) -> Iterator[Batch]:
    """This worker's batches from `step` on, endless, from a `BatchServer` or an actor of it that begins at `start`."""
    skip = step - start.pool * order.bucket_steps
    for share in _shares(feeder, rank, start.pool):
        if share.failure:
            yield Batch([], share.start, share.problems, share.failure)
            return
        problems = share.problems
        for parts in share.steps[skip:]:
            yield Batch(parts, share.start, problems, "")
            problems = []
        skip = max(0, skip - len(share.steps))


def _shares(feeder: Any, rank: int, pool: int) -> Iterator[RankBatches]:
    """This worker's share of each pool from `pool` on; an actor makes the next one while one is used."""
    if isinstance(feeder, BatchServer):
        while True:
            yield feeder.share(pool, rank)
            pool += 1
    coming = feeder.share.remote(pool, rank)
    while True:
        share, pool = fetch(coming), pool + 1
        coming = feeder.share.remote(pool, rank)
        yield share
