"""Training batches from shards, read by Ray Data, the same whatever the number of workers.

An epoch is a new order of all shards, cut into windows. A window is a pure function of (data, seed, epoch, window):
one task of Ray Data reads, shuffles and augments it. The windows, in order, are one sequence of frames; a pool of so
many steps' frames is cut into as many batches. A `Position` says where a pool begins, and a run continues there.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray

from models.augment import augment
from molecules.tars import ShardContent, read_shard

from .batching import ahead
from .buckets import Part, cut, gather, split
from .catalogue import Catalogue, DataConfig, catalogue, count_bad, missing
from .pool import fetch

__all__ = ["Catalogue", "DataConfig", "catalogue"]

READERS = 4  # windows that are read at once
AHEAD_BYTES = 4 * 10**9  # of the windows that one execution of Ray Data reads
MAX_WINDOWS = 64  # of one execution


class Position(NamedTuple):
    """The frame that a pool begins with: `row` of `window` of `epoch`; `pool` counts from 0."""

    pool: int = 0
    epoch: int = 0
    window: int = 0
    row: int = 0


@dataclass(frozen=True, kw_only=True)
class Order:
    """All that decides which frames stand in which batch. `batch`: frames a step, over all workers."""

    batch: int
    seed: int
    shards_per_window: int = 8
    bucket_steps: int = 1
    constant: str = "frames"
    accumulate: int = 1


@dataclass(frozen=True)
class Share:
    """One worker's part of a pool: for each step the parts of its batch; what was found bad on the way.

    `failure`: why training cannot go on, else empty.
    """

    start: Position
    steps: list[list[Part]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    failure: str = ""


class Window(NamedTuple):
    """A few shards of one epoch, by number, read and shuffled together."""

    epoch: int
    number: int
    shards: list[int]


def windows(shards: int, order: Order, start: Position) -> Iterator[Window]:
    """Endless windows from a position on."""
    epoch, first = start.epoch, start.window
    while True:
        stream = np.random.SeedSequence(order.seed, spawn_key=(0, epoch))
        shuffled = np.random.default_rng(stream).permutation(shards).tolist()
        size = order.shards_per_window
        for window in range(first, -(-shards // size)):
            yield Window(epoch, window, shuffled[window * size : (window + 1) * size])
        epoch, first = epoch + 1, 0


@dataclass(frozen=True)
class Frames:
    """A window's frames, shuffled and augmented, and a line for each thing that was bad.

    Shape: peptide (n,), numbers in the catalogue; x (Σ 3 N,), normalised and flat.
    """

    window: Window
    peptide: NDArray[np.int32]
    x: NDArray[np.float32]
    problems: list[str]


def read_window(window: Window, data: Catalogue, order: Order) -> Frames:
    """Read, shuffle and augment a window."""
    number = {sequence: i for i, sequence in enumerate(data.sequences)}
    peptides: list[int] = []
    frames: list[NDArray[np.float32]] = []
    problems: list[str] = []
    for i in window.shards:
        try:
            content = read_shard(data.shards[i], data.n_atoms)
        except OSError as error:
            content = ShardContent([], [f"{PurePath(data.shards[i]).name}: cannot be read: {error}"])
        members = len(content.frames) + len(content.problems)
        problems += [*content.problems, *missing(data.shards[i], data.expected[i], members)]
        used = [(number[frame.sequence], frame.positions) for frame in content.frames if frame.sequence in number]
        peptides += [peptide for peptide, _ in used]
        frames += [positions for _, positions in used]
    rng = np.random.default_rng(np.random.SeedSequence(order.seed, spawn_key=(1, window.epoch, window.number)))
    shuffled = rng.permutation(len(frames))
    n_atoms = np.array([len(frames[i]) for i in shuffled], np.int64)
    offsets = np.concatenate([[0], np.cumsum(3 * n_atoms)])
    values = np.empty(offsets[-1], np.float32)
    for n in np.unique(n_atoms):  # all frames of a size at once, whatever the peptide
        rows = np.flatnonzero(n_atoms == n)
        places = offsets[rows][:, None] + np.arange(3 * n)
        x = augment(np.stack([frames[shuffled[row]] for row in rows]), data.scale_nm, rng)
        values[places] = x.reshape(len(rows), -1)
    return Frames(window, np.asarray(peptides, np.int32)[shuffled], values, problems)


def _table(row: pa.Table, data: Catalogue, order: Order) -> pa.Table:
    """Ray Data's map: one row that describes a window → one row that holds its frames."""
    window = Window(*(row[name][0].as_py() for name in Window._fields))
    frames = read_window(window, data, order)
    columns = {
        "peptide": pa.array(frames.peptide),
        "x": pa.array(frames.x),
        "problems": pa.array(frames.problems, pa.string()),
    }
    lists = {k: pa.LargeListArray.from_arrays(np.array([0, len(v)], np.int64), v) for k, v in columns.items()}
    return pa.table({"epoch": [window.epoch], "number": [window.number], **lists})


def read(data: Catalogue, order: Order, start: Position) -> Iterator[Frames]:
    """Endless windows, in order, a few of them ahead of what is used."""
    return ahead(_read(data, order, start))


def _read(data: Catalogue, order: Order, start: Position) -> Iterator[Frames]:
    """Windows by executions of Ray Data small enough to run to their end: one that is held up takes a whole core."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Every task gets a copy of what it is told: not the peptides' tables.
    names = tuple(replace(peptide, encodings={}, orderings={}, internal={}) for peptide in data.peptides)
    table = partial(_table, data=replace(data, peptides=names, problems=[]), order=order)
    size = 12 * data.n_frames * order.shards_per_window / len(data.shards)
    size *= float(np.mean([peptide.n_atoms for peptide in data.peptides]))
    coming, count = windows(len(data.shards), order, start), int(np.clip(AHEAD_BYTES / size, 2, MAX_WINDOWS))
    while True:
        rows = [window._asdict() for window in islice(coming, count)]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            table, batch_size=1, batch_format="pyarrow", num_cpus=0.5, concurrency=READERS
        )
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            assert isinstance(block, pa.Table)
            for i in range(len(block)):
                window = Window(block["epoch"][i].as_py(), block["number"][i].as_py(), [])
                peptide, x = (block[name][i].values.to_numpy() for name in ("peptide", "x"))
                yield Frames(window, peptide, x, block["problems"][i].as_py())


@dataclass
class Chunk:
    """A window of which the first `used` frames are in batches; frame i begins at `offsets[i]`."""

    frames: Frames
    offsets: NDArray[np.int64]
    used: int

    @property
    def left(self) -> int:
        return len(self.frames.peptide) - self.used


class Feeder:
    """Forms the batches, and gives each of `world` workers its own.

    A plain class; with several workers an actor of it. Ray Data's own split over workers gives each block to whoever
    asks first; here who gets what is fixed.
    """

    def __init__(self, data: Catalogue, order: Order, world: int, start: Position, problems: Sequence[str]) -> None:
        self.data, self.order, self.world, self.next = data, order, world, start
        self.sizes = np.array([peptide.n_atoms for peptide in data.peptides], np.int64)
        self.seen = set(data.problems) | set(problems)
        self.bad = count_bad(list(self.seen))
        self.failure = ""
        self.windows = read(data, order, start)
        self.skip = start.row
        self.chunks: deque[Chunk] = deque()
        self.shares: dict[tuple[int, int], Share] = {}

    def share(self, pool: int, rank: int) -> Share:
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
                self.shares[pool, rank] = Share(start, problems=problems, failure=self.failure)
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
            self.shares[pool, rank] = Share(start, steps, problems)
        self.next = start._replace(pool=pool + 1)

    def _fill(self, n: int) -> list[str]:
        """Read until `n` frames are at hand; returns lines about bad data that are new."""
        new: list[str] = []
        empty = 0
        while sum(chunk.left for chunk in self.chunks) < n and not self.failure:
            frames = next(self.windows)
            offsets = np.concatenate([[0], np.cumsum(3 * self.sizes[frames.peptide])])
            chunk, self.skip = Chunk(frames, offsets, self.skip), 0
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

    def _position(self) -> Position:
        first = self.chunks[0]
        return Position(0, first.frames.window.epoch, first.frames.window.number, first.used)

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

    parts: list[Part]
    start: Position
    problems: list[str]
    failure: str


def batches(feeder: Any, rank: int, step: int, order: Order, start: Position) -> Iterator[Batch]:
    """This worker's batches from `step` on, endless, from a `Feeder` or an actor of it that begins at `start`."""
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


def _shares(feeder: Any, rank: int, pool: int) -> Iterator[Share]:
    """This worker's share of each pool from `pool` on; an actor makes the next one while one is used."""
    if isinstance(feeder, Feeder):
        while True:
            yield feeder.share(pool, rank)
            pool += 1
    coming = feeder.share.remote(pool, rank)
    while True:
        share, pool = fetch(coming), pool + 1
        coming = feeder.share.remote(pool, rank)
        yield share
