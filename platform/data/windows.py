"""Frames of shards, shuffled and augmented a window at a time, read by Ray Data.

An epoch is a new order of all shards, cut into windows. A window is a pure function of (data, seed, epoch, window): one
task of Ray Data makes it, or, of small data, whoever wants it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray

from boltzray.models.augment import augment
from boltzray.molecules.tars import Problem, ShardContent

from .catalogue import Catalogue, KnownPeptides
from .frame_energies import frame_energies
from .prefetch import prefetch

READERS = 4  # windows that are read at once
EXECUTION_BYTES = 4 * 10**9  # of windows per execution of Ray Data
MAX_WINDOWS = 64  # of one execution
_PROBLEM = pa.struct({"shard": pa.string(), "member": pa.string(), "reason": pa.string(), "frames": pa.int64()})


class StreamState(NamedTuple):
    """The frame that a bucket group begins with: `row` of `window` of `epoch`; `group` counts from 0."""

    group: int = 0
    epoch: int = 0
    window: int = 0
    row: int = 0


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Settings that decide which frames stand in which batch. `batch`: frames a step, over all workers.

    `energies`: of each frame, are computed as it is read. `center`: of mass, as `augment` takes it.
    """

    batch: int
    seed: int
    shards_per_window: int = 8
    bucket_steps: int = 1
    constant: str = "frames"
    accumulate: int = 1
    energies: bool = False
    center: str = "gaussian"


class Window(NamedTuple):
    """A few shards of one epoch, by number, read and shuffled together."""

    epoch: int
    number: int
    shards: list[int]


def windows(shards: int, plan: BatchPlan, start: StreamState) -> Iterator[Window]:
    """Endless windows over so many shards, from `start` on."""
    epoch, first = start.epoch, start.window
    while True:
        seed = np.random.SeedSequence(plan.seed, spawn_key=(0, epoch))
        shuffled = np.random.default_rng(seed).permutation(shards).tolist()
        size = plan.shards_per_window
        for window in range(first, -(-shards // size)):
            yield Window(epoch, window, shuffled[window * size : (window + 1) * size])
        epoch, first = epoch + 1, 0


@dataclass(frozen=True)
class WindowFrames:
    """A window's frames, shuffled and augmented, and what was bad in its shards.

    Shape: peptide (n,), numbers in the catalogue; x (Σ 3 N,), normalised and flat; energy_kT (n,), NaN if unknown.
    """

    window: Window
    peptide: NDArray[np.int32]
    x: NDArray[np.float32]
    energy_kT: NDArray[np.float32]
    problems: list[Problem]


def read_window(window: Window, data: Catalogue, plan: BatchPlan) -> WindowFrames:
    """Read, shuffle and augment a window."""
    number = {sequence: i for i, sequence in enumerate(data.sequences)}
    known = _fetched(data.known)
    peptides: list[int] = []
    frames: list[NDArray[np.float32]] = []
    problems: list[Problem] = []
    for i in window.shards:
        try:
            # Later epochs need not: a bit that has flipped since is most likely seen by the limits.
            content = known.read(data.shards[i], data.expected[i], data.sha256[i] if window.epoch == 0 else "")
        except OSError as error:
            content = ShardContent([], [Problem(PurePath(data.shards[i]).name, "", f"cannot be read: {error}")])
        problems += content.problems
        used = [(number[frame.sequence], frame.positions) for frame in content.frames if frame.sequence in number]
        peptides += [peptide for peptide, _ in used]
        frames += [positions for _, positions in used]
    rng = np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=(1, window.epoch, window.number)))
    shuffled = rng.permutation(len(frames))
    n_atoms = np.array([len(frames[i]) for i in shuffled], np.int64)
    offsets = np.concatenate([[0], np.cumsum(3 * n_atoms)])
    values = np.empty(offsets[-1], np.float32)
    for n in np.unique(n_atoms):  # all frames of a size at once, whatever the peptide
        rows = np.flatnonzero(n_atoms == n)
        places = offsets[rows][:, None] + np.arange(3 * n)
        x = augment(np.stack([frames[shuffled[row]] for row in rows]), data.scale_nm, rng, plan.center)
        values[places] = x.reshape(len(rows), -1)
    energies = np.full(len(frames), np.nan, np.float32)
    if plan.energies:
        sequences = [data.sequences[peptide] for peptide in peptides]
        energies = frame_energies(sequences, frames, data.structures, data.temperature_k)
    return WindowFrames(window, np.asarray(peptides, np.int32)[shuffled], values, energies[shuffled], problems)


@lru_cache(2)
def _fetched(known: Any) -> KnownPeptides:
    """Of very many peptides it takes longer than to read a shard."""
    found: KnownPeptides = ray.get(known)
    return found


def _table(row: pa.Table, data: Catalogue, plan: BatchPlan) -> pa.Table:
    """Map of Ray Data: one row that describes a window → one row that holds its frames."""
    window = Window(*(row[name][0].as_py() for name in Window._fields))
    frames = read_window(window, data, plan)
    columns = {
        "peptide": pa.array(frames.peptide),
        "x": pa.array(frames.x),
        "energy_kT": pa.array(frames.energy_kT),
        "problems": pa.array([problem._asdict() for problem in frames.problems], _PROBLEM),
    }
    lists = {k: pa.LargeListArray.from_arrays(np.array([0, len(v)], np.int64), v) for k, v in columns.items()}
    return pa.table({"epoch": [window.epoch], "number": [window.number], **lists})


def read(data: Catalogue, plan: BatchPlan, start: StreamState) -> Iterator[WindowFrames]:
    """Endless windows, in order, a few of them read before they are used.

    By Ray Data; of small local data in a thread of this process, as Ray Data takes seconds to start. Energies take
    long, and are always for its tasks.
    """
    if data.small and not plan.energies:
        return prefetch(read_window(window, data, plan) for window in windows(len(data.shards), plan, start))
    return prefetch(_read(data, plan, start))


def _read(data: Catalogue, plan: BatchPlan, start: StreamState) -> Iterator[WindowFrames]:
    """Windows by executions of Ray Data small enough to run to their end: one that is held up takes a whole core."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Every task gets a copy of its arguments: not the peptides' tables.
    names = tuple(
        replace(peptide, encodings={}, orderings={}, names=[], internals={}, limits=None, amber_order=None)
        for peptide in data.peptides
    )
    table = partial(_table, data=replace(data, peptides=names, problems=[]), plan=plan)
    size = 12 * data.n_frames * plan.shards_per_window / len(data.shards)
    size *= float(np.mean([peptide.n_atoms for peptide in data.peptides]))
    most = READERS if plan.energies else MAX_WINDOWS  # energies take long: those of later windows would delay the first
    todo, count = windows(len(data.shards), plan, start), int(np.clip(EXECUTION_BYTES / size, 2, most))
    while True:
        rows = [window._asdict() for window in islice(todo, count)]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            table, batch_size=1, batch_format="pyarrow", num_cpus=0.5, concurrency=READERS
        )
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            assert isinstance(block, pa.Table)
            for i in range(len(block)):
                window = Window(block["epoch"][i].as_py(), block["number"][i].as_py(), [])
                peptide, x, energy = (block[name][i].values.to_numpy() for name in ("peptide", "x", "energy_kT"))
                problems = [Problem(**problem) for problem in block["problems"][i].as_py()]
                yield WindowFrames(window, peptide, x, energy, problems)
