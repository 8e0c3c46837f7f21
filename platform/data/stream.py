"""Training batches, the same whatever the number of workers.

The windows of `windows`, in order, are one sequence of frames. The frames of the next `bucket_steps` steps are a bucket
group, which is cut into as many batches. A `StreamState` says where a group begins, and a run continues there.

Four buffers lie between a shard and the optimiser, each of which hides another wait:
Ray Data's own (`windows._read`)       a window's way out of the object store, and READERS tasks that read the next ones
`prefetch` (`windows.read`)            the start of the next execution of Ray Data, of 0.3 to 3 s; reading small data
one group ahead (`_rank_batches`)      the forming of a group by the server's actor, where there are several workers
`prefetch` (`training.worker`)         padding and pinning; with one worker the forming of a group, too
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from boltzray.molecules.tars import Problem

from ..runtime.actor_pool import fetch
from .bucketing import Microbatch, cut, gather, split
from .catalogue import Catalogue
from .windows import BatchPlan, StreamState, WindowFrames, read


@dataclass(frozen=True)
class RankBatches:
    """One worker's part of a bucket group: for each step its microbatches; what was found bad on the way.

    `failure`: why training cannot go on, else empty.
    """

    start: StreamState
    steps: list[list[Microbatch]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    failure: str = ""


@dataclass
class PendingWindow:
    """A window of which the first `used` frames are in batches; frame i begins at `offsets[i]`."""

    frames: WindowFrames
    offsets: NDArray[np.int64]
    used: int

    @property
    def remaining(self) -> int:
        return len(self.frames.peptide) - self.used


class BatchServer:
    """Forms the batches, and gives each of `world` workers its own.

    A plain class; with several workers an actor of it. `problems`: those that earlier starts of the run have named.
    """

    # Batches are formed in one place, and once. If each worker read a part of the windows (as with Ray Data's
    # streaming_split, which gives each block to whoever asks first), then which frames make a batch would depend on
    # the number of workers and on their timing: a run could not go on to the bit after a node was lost, nor with fewer
    # workers. If each worker read everything, all of it would be read `world` times. Here a group is a function of
    # (data, plan, start), and rank r gets rows r, r + world, … of each batch.

    def __init__(
        self, data: Catalogue, plan: BatchPlan, world: int, start: StreamState, problems: Sequence[Problem]
    ) -> None:
        self.data, self.plan, self.world, self.next = data, plan, world, start
        self.sizes = np.array([peptide.n_atoms for peptide in data.peptides], np.int64)
        self.seen = set(data.problems) | set(problems)
        self.bad = sum(problem.frames for problem in self.seen)
        self.failure = ""
        self.windows = read(data, plan, start)
        self.skip = start.row
        self.pending: deque[PendingWindow] = deque()
        self.formed: dict[tuple[int, int], RankBatches] = {}

    def rank_batches(self, group: int, rank: int) -> RankBatches:
        """Worker `rank`'s part of a bucket group; groups are asked for in order, by every worker once."""
        while (group, rank) not in self.formed:
            assert group >= self.next.group, "every group is given once"
            self._form_group()
        return self.formed.pop((group, rank))

    def _form_group(self) -> None:
        """Form the next bucket group, for all workers."""
        n_frames = self.plan.batch * self.plan.bucket_steps
        problems = self._fill(n_frames)
        start, group = self.next, self.next.group
        if self.failure:
            self.next = start._replace(group=group + 1)
            for rank in range(self.world):
                self.formed[group, rank] = RankBatches(start, problems=problems, failure=self.failure)
            return
        start = self._position()._replace(group=group)
        peptide, starts, values, energy_kT = self._take(n_frames)
        n_atoms = self.sizes[peptide]
        rng = np.random.default_rng(np.random.SeedSequence(self.plan.seed, spawn_key=(2, group)))
        batches = cut(n_atoms, self.plan.bucket_steps, self.plan.constant, self.world, rng)
        for rank in range(self.world):
            steps = [
                gather(split(rows, rank, self.world, self.plan.accumulate), peptide, n_atoms, starts, values, energy_kT)
                for rows in batches
            ]
            self.formed[group, rank] = RankBatches(start, steps, problems)
        self.next = start._replace(group=group + 1)

    def _fill(self, n: int) -> list[Problem]:
        """Read until `n` frames are at hand; returns the problems that are new."""
        new: list[Problem] = []
        empty = 0
        while sum(window.remaining for window in self.pending) < n and not self.failure:
            frames = next(self.windows)
            offsets = np.concatenate([[0], np.cumsum(3 * self.sizes[frames.peptide])])
            window, self.skip = PendingWindow(frames, offsets, self.skip), 0
            if window.remaining:
                self.pending.append(window)
            empty = 0 if window.remaining else empty + 1
            unseen = [problem for problem in frames.problems if problem not in self.seen]
            self.seen.update(unseen)
            self.bad += sum(problem.frames for problem in unseen)
            new += unseen
            if unseen and self.bad > self.data.max_bad:
                self.failure = (
                    f"{self.bad} of about {self.data.n_frames} frames of an epoch are bad, more than "
                    f"data.max_bad_share allows; the last: {unseen[-1]}: mend the shards, or raise it"
                )
            elif empty > 2 * len(self.data.shards):
                self.failure = "no shard holds a frame that can be used"
        return new

    def _position(self) -> StreamState:
        """The first frame that is not in a batch yet."""
        first = self.pending[0]
        return StreamState(0, first.frames.window.epoch, first.frames.window.number, first.used)

    def _take(self, n: int) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """The next `n` frames: number of the peptide, where each begins in the flat values, the values, the energy."""
        peptides, values, energies = [], [], []
        while n:
            window = self.pending[0]
            rows = slice(window.used, window.used + min(n, window.remaining))
            peptides.append(window.frames.peptide[rows])
            energies.append(window.frames.energy_kT[rows])
            values.append(window.frames.x[window.offsets[rows.start] : window.offsets[rows.stop]])
            n, window.used = n - (rows.stop - rows.start), rows.stop
            if not window.remaining:
                self.pending.popleft()
        peptide = np.concatenate(peptides)
        starts = np.concatenate([[0], np.cumsum(3 * self.sizes[peptide])[:-1]])
        return peptide, starts, np.concatenate(values), np.concatenate(energies)


class StepMicrobatches(NamedTuple):
    """One worker's microbatches of a step; `start` of its bucket group; what was found bad before it."""

    microbatches: list[Microbatch]
    start: StreamState
    problems: list[Problem]
    failure: str


def batches(server: Any, rank: int, step: int, plan: BatchPlan, start: StreamState) -> Iterator[StepMicrobatches]:
    """This worker's steps from `step` on, endless, from a `BatchServer` or an actor of it that begins at `start`."""
    skip = step - start.group * plan.bucket_steps
    for mine in _rank_batches(server, rank, start.group):
        if mine.failure:
            yield StepMicrobatches([], mine.start, mine.problems, mine.failure)
            return
        problems = mine.problems
        for microbatches in mine.steps[skip:]:
            yield StepMicrobatches(microbatches, mine.start, problems, "")
            problems = []
        skip = max(0, skip - len(mine.steps))


def _rank_batches(server: Any, rank: int, group: int) -> Iterator[RankBatches]:
    """This worker's part of each bucket group from `group` on; an actor forms the next one while one is used."""
    if isinstance(server, BatchServer):
        while True:
            yield server.rank_batches(group, rank)
            group += 1
    coming = server.rank_batches.remote(group, rank)
    while True:
        mine, group = fetch(coming), group + 1
        coming = server.rank_batches.remote(group, rank)
        yield mine
