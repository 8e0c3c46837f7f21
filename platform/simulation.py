"""Molecular dynamics as Ray tasks, one a peptide and replica, then written in the public layout."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray

from molecules.dynamics import MDConfig, Progress, load_trajectory, run_name
from molecules.dynamics import simulate as run_dynamics
from molecules.observables import fit_tica
from molecules.peptide import Peptide, check_sequence
from molecules.references import published_split, save_reference
from molecules.shards import write_shards

from .cluster import ClusterConfig, cluster
from .config import flat, results_folder, write_json
from .cores import own_core
from .pool import fetch
from .progress import progress, say
from .tracking import Tracker

TICA_LAG = 100  # frames


@dataclass(frozen=True, kw_only=True)
class SimulateJob:
    """Molecular dynamics of peptides, written as shards for training and trajectories to compare with.

    `time_ns` of each of `replicas`. Of a peptide of split `train` the last `hold_out` replicas are kept out of the
    shards and become its reference trajectory; one of split `val` or `test` is reference only.
    """

    sequences: tuple[str, ...] = ("AA",)
    time_ns: float = 1.0
    replicas: int = 2
    hold_out: int = 1
    split: str = "train"
    out: str = "data"
    frames_per_shard: int = 2000
    seed: int = 0
    md: MDConfig = field(default_factory=MDConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        if not self.sequences:
            raise ValueError("give peptides: sequences=[AA,AL]")
        for sequence in self.sequences:
            check_sequence(sequence)
        if self.split not in ("train", "val", "test"):
            raise ValueError(f"split={self.split!r} is unknown: choose train, val or test")
        if self.time_ns <= 0 or self.replicas < 1:
            raise ValueError("time_ns must be positive, and replicas at least 1")
        if self.split == "train" and not 0 <= self.hold_out < self.replicas:
            raise ValueError(
                f"hold_out={self.hold_out} of {self.replicas} replicas leaves nothing to train on: "
                "raise replicas, or lower hold_out"
            )


@dataclass(frozen=True)
class Run:
    """One replica of one peptide."""

    sequence: str
    replica: int
    pdb: str
    directory: str
    seed: int


def run_replica(run: Run, config: MDConfig, time_ps: float) -> Iterator[Progress]:
    """Bring one replica up to `time_ps`, on a core of its own."""
    yield from run_dynamics(Peptide.from_pdb(run.pdb), run.directory, config, time_ps, run.seed, own_core())


def simulate(job: SimulateJob) -> Path:
    """Run `job`, or go on with it; returns the data folder."""
    out = results_folder(job.out)
    for sequence in job.sequences:
        if job.split == "train" and (split := published_split(sequence)):
            say(
                f"note: {sequence} is in the published {split} set; a flow that is trained on it cannot be compared "
                "with published numbers on it"
            )
    runs = [run for i, s in enumerate(job.sequences) for run in _runs(job, out, i, s)]
    settings = {k: v for k, v in flat(job).items() if not k.startswith("cluster.")}
    with Tracker.open("simulate", out, settings) as tracker, cluster(job.cluster) as resources:
        say(f"simulating {len(runs)} × {job.time_ns:g} ns on {resources.cpus} CPUs: {', '.join(job.sequences)}")
        _run_all(job, runs, tracker)
        _write(job, out, runs)
    say(f"data written: {out}")
    return out


def _runs(job: SimulateJob, out: Path, number: int, sequence: str) -> list[Run]:
    peptide = Peptide.from_sequence(sequence)
    path = out / "pdbs" / job.split / f"{peptide.sequence}.pdb"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        temporary.write_text(peptide.to_pdb())
        temporary.replace(path)
    text = path.read_text()
    return [
        Run(
            peptide.sequence,
            replica,
            text,
            str(out / "md" / run_name(peptide.sequence, job.md, replica)),
            seed=(job.seed * 1000 + replica) * 10_000 + number,
        )
        for replica in range(job.replicas)
    ]


def _run_all(job: SimulateJob, runs: list[Run], tracker: Tracker) -> None:
    """All runs as tasks that yield after each chunk; each chunk counts towards the progress."""
    time_ps = job.time_ns * 1000
    task = ray.remote(num_cpus=1, num_returns="streaming", max_retries=3)(run_replica)
    streams: dict[Any, Run] = {task.remote(run, job.md, time_ps): run for run in runs}
    per_run = int(np.ceil(time_ps / job.md.ps_per_chunk - 1e-9))
    before = {run: _chunks(run) for run in runs}
    done = {run: min(per_run, before[run]) for run in runs}
    with progress("simulate", per_run * len(runs), sum(done.values())) as update:
        while streams:
            ready: list[Any] = ray.wait(list(streams), num_returns=1, fetch_local=False)[0]
            for stream in ready:
                run = streams[stream]
                try:
                    state: Progress = fetch(next(stream))
                except StopIteration:
                    done[run] = per_run
                    del streams[stream]
                    continue
                done[run] = state.chunks_done
                update(sum(done.values()), f"{run.sequence} {state.ps_per_second:.1f} ps/s a core")
                tracker.log(
                    {f"ps_per_s_{run.sequence}": state.ps_per_second, "chunks_done": sum(done.values())},
                    step=sum(done.values()),
                )
        update(sum(done.values()), "")


def _chunks(run: Run) -> int:
    return len(list((Path(run.directory) / "chunks").glob("chunk_*.npz")))


def _write(job: SimulateJob, out: Path, runs: list[Run]) -> None:
    """Trajectories → references, and shards of all training runs that the folder has, earlier ones too."""
    path = out / "runs.json"
    roles: dict[str, list[str]] = json.loads(path.read_text()) if path.exists() else {}
    for sequence in dict.fromkeys(run.sequence for run in runs):
        own = [run for run in runs if run.sequence == sequence]
        held = own[len(own) - job.hold_out :] if job.split == "train" else own
        roles |= {Path(run.directory).name: [sequence, "held out" if run in held else "train"] for run in own}
        if held:
            _write_reference(job, out, held)
    write_json(path, roles)
    training: dict[str, list[np.ndarray]] = {}
    for directory, (sequence, role) in sorted(roles.items()):
        if role == "train":
            training.setdefault(sequence, []).append(load_trajectory(out / "md" / directory))
    if training:
        write_shards(out, training, job.seed, job.frames_per_shard)


def _write_reference(job: SimulateJob, out: Path, held: list[Run]) -> None:
    sequence, split = held[0].sequence, "val" if job.split == "train" else job.split
    positions = np.concatenate([load_trajectory(run.directory) for run in held])
    lag = max(1, min(TICA_LAG, len(positions) // 10))
    tica = fit_tica(positions, Peptide.from_pdb(held[0].pdb).topology, lag=lag)
    path = out / "trajectories_subsampled" / split / f"{len(sequence)}AA" / f"{sequence}_subsampled.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_reference(path, positions, tica)
