"""Frames a second out of tars: our stream against the `webdataset` library, with the same transforms.

    pip install webdataset
    python benchmarks/stream.py --shards 8 --frames 20000

Both read tars of the public layout (random peptides of 2-8 residues), shuffle, rotate, centre, scale, add noise to the
centre, and hand out padded batches. webdataset shuffles within 1000 frames, and decodes in a process of its own,
as Ray's tasks do for ours; `in this process` has none. Memory: of this process and its children, above the start.
"""

import argparse
import io
import logging
import os
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from boltzray.runtime.environment import prepare

prepare()
import ray  # noqa: E402
import ray.data  # noqa: E402

from boltzray.data.catalogue import Catalogue, DataConfig, inspect_data  # noqa: E402
from boltzray.data.collate import Collator  # noqa: E402
from boltzray.data.prefetch import prefetch  # noqa: E402
from boltzray.data.stream import BatchServer, batches  # noqa: E402
from boltzray.data.windows import BatchPlan, StreamState  # noqa: E402
from boltzray.models import Flow, FlowConfig  # noqa: E402
from boltzray.models.augment import augment  # noqa: E402
from boltzray.molecules import Peptide  # noqa: E402
from boltzray.molecules.columns import read_columns, write_columns  # noqa: E402
from boltzray.molecules.dynamics import minimised  # noqa: E402
from boltzray.molecules.runs import MDConfig  # noqa: E402
from boltzray.molecules.tars import ShardContent, read_shard  # noqa: E402

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
MODEL = FlowConfig(channels=16, head_dim=8, blocks=2, layers_per_block=1)


def write(folder: Path, shards: int, frames: int) -> None:
    """Shards of frames of 35 random peptides, shaken about a minimum of their energy."""
    rng = np.random.default_rng(0)
    peptides = [Peptide.from_sequence("".join(rng.choice(list(LETTERS), 2 + i % 7))) for i in range(35)]
    minima = {peptide.sequence: minimised(peptide, MDConfig()) for peptide in peptides}
    (folder / "pdbs" / "train").mkdir(parents=True)
    for peptide in peptides:
        (folder / "pdbs" / "train" / f"{peptide.sequence}.pdb").write_text(peptide.to_pdb())
    out = folder / "webdatasets" / "single_frames"
    out.mkdir(parents=True)
    for shard in range(shards):
        with tarfile.open(out / f"{shard:04d}.tar", "w") as tar:
            for i in range(frames):
                peptide = peptides[int(rng.integers(len(peptides)))]
                x = (minima[peptide.sequence] + rng.normal(0, 0.001, (peptide.n_atoms, 3))).astype("<f4").tobytes()
                info = tarfile.TarInfo(f"{peptide.sequence}_{shard * frames + i:06d}.bin")
                info.size = len(x)
                tar.addfile(info, io.BytesIO(x))


class Decode:
    """One member of a tar → a normalised, rotated frame, for webdataset."""

    def __init__(self, scale_nm: float) -> None:
        self.scale_nm, self.rng = scale_nm, np.random.default_rng(os.getpid())

    def __call__(self, sample: dict[str, Any]) -> tuple[str, np.ndarray]:
        x = np.frombuffer(sample["bin"], "<f4").reshape(1, -1, 3)
        return sample["__key__"].split("_")[0], augment(x, self.scale_nm, self.rng)[0]


def theirs(data: Catalogue, collator: Collator, batch: int, workers: int) -> Iterator[Any]:
    import webdataset as wds

    pipeline = wds.WebDataset(data.shards, shardshuffle=len(data.shards), seed=0, empty_check=False)
    pipeline = (
        pipeline.shuffle(1000).map(Decode(data.scale_nm)).batched(batch, collation_fn=list, partial=False).repeat()
    )
    loader: Iterable[Any] = wds.WebLoader(pipeline, batch_size=None, num_workers=workers) if workers else pipeline
    for rows in loader:
        yield collator([sequence for sequence, _ in rows], [x for _, x in rows])


def ours(data: Catalogue, collator: Collator, batch: int) -> Iterator[Any]:
    plan, start = BatchPlan(batch=batch, seed=0, shards_per_window=1, bucket_steps=16), StreamState()
    server = BatchServer(data, plan, 1, start, [])
    stream = batches(server, 0, 0, plan, start)
    yield from prefetch([collator.batch(microbatch) for microbatch in step.microbatches] for step in stream)


def alone(read: Callable[[], ShardContent]) -> float:
    """Frames a CPU second of one reader, without shuffling or transforms."""
    started = time.process_time()
    return len(read().frames) / (time.process_time() - started)


def memory() -> float:
    """GB of this process and its children, shared pages counted once."""
    me = psutil.Process()
    total = 0
    for process in (me, *me.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / 1e9


def cpu_seconds() -> dict[int, float]:
    """Of this process and each of its children, Ray's own included, by id."""
    me, found = psutil.Process(), {}
    for process in (me, *me.children(recursive=True)):
        try:
            found[process.pid] = sum(process.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return found


def measure(name: str, stream: Iterator[Any], batch: int, seconds: float, warm_up: int) -> None:
    """Samples/s once `warm_up` of them, as many as are read ahead, have gone by."""
    before, started = memory(), time.perf_counter()
    next(stream)
    first = time.perf_counter() - started
    for _ in islice(stream, warm_up // batch):
        pass
    started, busy, count = time.perf_counter(), cpu_seconds(), 0
    while time.perf_counter() - started < seconds:
        for _ in islice(stream, 20):
            count += batch
    rate = count / (time.perf_counter() - started)
    work = count / sum(now - busy.get(pid, 0.0) for pid, now in cpu_seconds().items())
    peak = memory() - before
    stream.close()  # type: ignore[attr-defined]
    print(f"| {name} | {rate:,.0f} | {work:,.0f} | {first:.1f} | {peak:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--frames", type=int, default=20_000, help="of a shard")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--cpus", type=int, default=2)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, arguments.shards, arguments.frames)
        ray.init(address="local", num_cpus=arguments.cpus, log_to_driver=False, logging_level=logging.ERROR)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        data = inspect_data(DataConfig(scale_nm=0.35, inspected_shards=1), str(folder))
        collator = Collator(Flow(MODEL, 0.35), {p.sequence: p for p in data.peptides})
        content = read_shard(data.shards[0], ray.get(data.known).n_atoms)
        columns = folder / "0000.parquet"
        write_columns(columns, content, "")
        raw, raw_columns = (
            max(alone(partial(read, path, ray.get(data.known).n_atoms)) for _ in range(3))
            for read, path in ((read_shard, data.shards[0]), (read_columns, str(columns)))
        )
        mean = np.mean([len(frame.positions) for frame in content.frames])
        print(
            f"mean {mean:.0f} atoms, {arguments.frames} frames a shard, batches of {arguments.batch}, load "
            f"{os.getloadavg()[0]:.1f}\nframes a CPU second alone: our tar reader {raw:,.0f}, prepared columns "
            f"{raw_columns:,.0f}\n"
        )
        print("| reader | samples/s | samples a CPU second | first batch, s | memory, GB |\n|---|---|---|---|---|")
        for name, stream in {
            "webdataset, in this process": theirs(data, collator, arguments.batch, 0),
            "webdataset, a worker": theirs(data, collator, arguments.batch, 1),
            "ours": ours(data, collator, arguments.batch),
            "webdataset, a worker (again)": theirs(data, collator, arguments.batch, 1),
            "ours (again)": ours(data, collator, arguments.batch),
        }.items():
            ahead_of_use = 7 * arguments.frames if name.startswith("ours") else 4000
            measure(name, stream, arguments.batch, arguments.seconds, ahead_of_use)
        ray.shutdown()


if __name__ == "__main__":
    main()
