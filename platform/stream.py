"""Training frames from shards through Ray Data, in an order that the step number alone determines.

An epoch is cut into windows of shards. A window is a pure function of (data, seed, epoch, window): its frames are
read, shuffled and augmented in one task. Every rank has its own sequence of frames, so that a run continues at
step s by dropping the first s · (frames a step) of it: nothing is seen twice, nothing is left out.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from models.augment import augment
from molecules.peptide import Peptide
from molecules.shards import list_shards
from molecules.tars import read_shard

from .config import fingerprint
from .pool import fetch
from .progress import progress


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which frames to train on.

    `sequences`: empty for every peptide that has a PDB. `scale_nm`: σ, measured on the data unless given.
    `shards_per_window` are shuffled together. `max_bad_share`: of frames that may be unreadable.
    """

    path: str = "data"
    sequences: tuple[str, ...] = ()
    max_residues: int = 8
    scale_nm: float | None = None
    shards_per_window: int = 8
    max_bad_share: float = 0.001

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad_share < 1:
            raise ValueError(f"max_bad_share={self.max_bad_share} must be a share, from 0 to below 1")
        if self.shards_per_window < 1:
            raise ValueError("shards_per_window must be at least 1")


@dataclass(frozen=True)
class ShardFacts:
    """What one pass over a shard tells: frames per sequence, the sum of squares that σ needs, and what is bad."""

    path: str
    frames: dict[str, int]
    sum_squares: float
    n_coordinates: int
    problems: list[str]


@dataclass(frozen=True)
class Catalogue:
    """A data set as found: peptides, good frames per shard, σ in nm, what is bad, and a fingerprint."""

    pdbs: dict[str, str]
    n_atoms: dict[str, int]
    shards: list[str]
    frames: list[int]
    scale_nm: float
    problems: list[str]
    fingerprint: str

    @property
    def n_frames(self) -> int:
        return sum(self.frames)

    def peptides(self) -> dict[str, Peptide]:
        return {sequence: Peptide.from_pdb(text) for sequence, text in self.pdbs.items()}


def inspect_shard(path: str, n_atoms: dict[str, int], chosen: Sequence[str]) -> ShardFacts:
    """Read one shard, count its frames of the `chosen` peptides, and name what is wrong with it."""
    content = read_shard(path, n_atoms)
    frames: dict[str, int] = {}
    sum_squares, n_coordinates = 0.0, 0
    for _, sequence, positions in content.frames:
        if sequence not in chosen:
            continue
        frames[sequence] = frames.get(sequence, 0) + 1
        sum_squares += float(np.square(positions - positions.mean(axis=0), dtype=np.float64).sum())
        n_coordinates += positions.size
    return ShardFacts(path, frames, sum_squares, n_coordinates, content.problems)


def catalogue(config: DataConfig, folder: Path) -> Catalogue:
    """Look through all shards once, as Ray tasks.

    Raises: ValueError when there is nothing to train on, or too much of it is bad.
    """
    shards = [str(path) for path in list_shards(folder)]
    pdbs = _pdbs(folder)
    chosen = _chosen(config, pdbs)
    n_atoms = {sequence: Peptide.from_pdb(text).n_atoms for sequence, text in pdbs.items()}
    task = ray.remote(inspect_shard)
    pending = {task.remote(path, n_atoms, chosen): i for i, path in enumerate(shards)}
    found: dict[int, ShardFacts] = {}
    with progress("look through shards", len(shards)) as update:
        while pending:
            for reference in ray.wait(list(pending), num_returns=1)[0]:
                found[pending.pop(reference)] = fetch(reference)
            update(len(found), "")
    facts = [found[i] for i in range(len(shards))]
    problems = [problem for fact in facts for problem in fact.problems]
    counts = [sum(fact.frames.values()) for fact in facts]
    total, bad = sum(counts), len(problems)
    if not total:
        reason = f"; the first problem: {problems[0]}" if problems else ""
        raise ValueError(f"no frame in {folder} can be used for training{reason}")
    if bad > config.max_bad_share * (total + bad):
        raise ValueError(
            f"{bad} of {total + bad} frames are bad, more than max_bad_share={config.max_bad_share}; "
            f"the first: {problems[0]}: mend the shards, or raise data.max_bad_share"
        )
    variance = sum(f.sum_squares for f in facts) / sum(f.n_coordinates for f in facts)
    identity = [[Path(f.path).name, f.frames, f.sum_squares] for f in facts]
    return Catalogue(
        pdbs={sequence: pdbs[sequence] for sequence in chosen if any(sequence in f.frames for f in facts)},
        n_atoms=n_atoms,
        shards=shards,
        frames=counts,
        scale_nm=config.scale_nm or round(float(np.sqrt(variance)), 4),
        problems=problems,
        fingerprint=fingerprint(identity),
    )


def _pdbs(folder: Path) -> dict[str, str]:
    """PDB texts of all peptides that the folder knows, by sequence."""
    found = {path.stem: path.read_text() for path in sorted((folder / "pdbs").glob("*/*.pdb"))}
    if not found:
        raise ValueError(f"no PDB files in {folder / 'pdbs'}: expected pdbs/train/SEQUENCE.pdb for each peptide")
    return found


def _chosen(config: DataConfig, pdbs: dict[str, str]) -> list[str]:
    """The peptides to train on."""
    for sequence in config.sequences:
        if sequence not in pdbs:
            raise ValueError(f"data.sequences names {sequence}, which has no PDB: there are {', '.join(sorted(pdbs))}")
    return sorted(config.sequences or (s for s in pdbs if len(s) <= config.max_residues))


@dataclass(frozen=True)
class Window:
    """A few shards of one epoch, read and shuffled together; `skip` frames of this rank's share are done."""

    epoch: int
    index: int
    shards: tuple[int, ...]
    skip: int = 0


def windows(frames: Sequence[int], per_window: int, seed: int, rank: int, world: int) -> Iterator[tuple[Window, int]]:
    """Endless windows over shards with `frames` each, and how many frames of each are this rank's."""
    epoch = 0
    while True:
        order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, epoch))).permutation(len(frames))
        for index, start in enumerate(range(0, len(order), per_window)):
            shards = tuple(int(i) for i in order[start : start + per_window])
            total = sum(frames[i] for i in shards)
            yield Window(epoch, index, shards), len(range(rank, total, world))
        epoch += 1


def plan(
    frames: Sequence[int], per_window: int, seed: int, rank: int, world: int, start: int, stop: int
) -> list[Window]:
    """The windows that hold this rank's frames number `start` to `stop` - 1."""
    result: list[Window] = []
    position = 0
    for window, count in windows(frames, per_window, seed, rank, world):
        if position >= stop:
            return result
        if position + count > start:
            result.append(Window(window.epoch, window.index, window.shards, max(0, start - position)))
        position += count
    raise AssertionError("windows never end")


def read_window(
    window: Window,
    shards: Sequence[str],
    n_atoms: dict[str, int],
    chosen: Sequence[str],
    scale_nm: float,
    seed: int,
    rank: int,
    world: int,
) -> Iterator[tuple[str, np.ndarray]]:
    """This rank's frames of a window, shuffled and augmented: (sequence, normalised float32 (N, 3))."""
    keep = set(chosen)
    content = (read_shard(shards[i], n_atoms) for i in window.shards)
    frames = [(f.sequence, f.positions) for shard in content for f in shard.frames if f.sequence in keep]
    stream = np.random.SeedSequence(seed, spawn_key=(1, window.epoch, window.index))
    order = np.random.default_rng(stream).permutation(len(frames))[rank::world]
    mine = [frames[i] for i in order]
    augmented: dict[int, np.ndarray] = {}
    by_sequence: dict[str, list[int]] = {}
    for i, (sequence, _) in enumerate(mine):
        by_sequence.setdefault(sequence, []).append(i)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2, window.epoch, window.index, rank)))
    for sequence in sorted(by_sequence):
        rows = by_sequence[sequence]
        augmented.update(zip(rows, augment(np.stack([mine[i][1] for i in rows]), scale_nm, rng), strict=True))
    for i in range(window.skip, len(mine)):
        yield mine[i][0], augmented[i]


def _window_table(table: pa.Table, **reading: Any) -> pa.Table:
    """Ray Data's map: one row that describes a window → its frames, as strings and flat lists."""
    row = {name: column[0].as_py() for name, column in zip(table.column_names, table.columns, strict=True)}
    window = Window(row["epoch"], row["index"], tuple(row["shards"]), row["skip"])
    sequences, arrays = [], []
    for sequence, x in read_window(window, **reading):
        sequences.append(sequence)
        arrays.append(x.reshape(-1))
    offsets = np.cumsum([0, *(len(a) for a in arrays)], dtype=np.int64)
    values = np.concatenate(arrays) if arrays else np.zeros(0, np.float32)
    return pa.table({"sequence": sequences, "x": pa.LargeListArray.from_arrays(offsets, values)})


def batches(
    data: Catalogue,
    *,
    batch: int,
    start_step: int,
    stop_step: int,
    per_window: int,
    seed: int,
    rank: int,
    world: int,
) -> Iterable[tuple[list[str], list[np.ndarray]]]:
    """This rank's batches for steps `start_step` to `stop_step` - 1, in order.

    Each is a list of sequences and one of normalised coordinates (N, 3). `batch` frames a rank and step.
    """
    todo = plan(data.frames, per_window, seed, rank, world, start_step * batch, stop_step * batch)
    reading = {
        "shards": data.shards,
        "n_atoms": data.n_atoms,
        "chosen": sorted(data.pdbs),
        "scale_nm": data.scale_nm,
        "seed": seed,
        "rank": rank,
        "world": world,
    }
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    dataset = ray.data.from_items([asdict(w) for w in todo], override_num_blocks=len(todo)).map_batches(
        _window_table, batch_size=1, batch_format="pyarrow", fn_kwargs=reading, num_cpus=0.5
    )
    tables = dataset.iter_batches(batch_size=batch, batch_format="pyarrow", prefetch_batches=2, drop_last=True)
    for step, table in zip(range(start_step, stop_step), tables, strict=False):
        del step
        assert isinstance(table, pa.Table)
        columns = table.combine_chunks()
        lists = columns["x"].chunk(0)
        offsets, values = lists.offsets.to_numpy(), lists.values.to_numpy()
        arrays = [values[lo:hi].reshape(-1, 3) for lo, hi in itertools.pairwise(offsets)]
        yield columns["sequence"].to_pylist(), arrays
