"""Molecular dynamics as Ray tasks, each of a batch of replicas, then written in the public layout."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray

from boltzray.molecules.peptide import Peptide
from boltzray.molecules.reference_match import check_bonds
from boltzray.molecules.references import conditions, load_reference, published_split
from boltzray.molecules.runs import MDConfig, Progress, load_trajectory, run_name
from boltzray.molecules.sequences import reading_note
from boltzray.molecules.storage import replacing

from ..data.sources import HELD_OUT, REFERENCES, RUNS, held_out_frames, held_out_ns, write_reference, write_training
from ..runtime.actor_pool import fetch
from ..runtime.cluster import Cluster, ClusterConfig, cluster
from ..runtime.config import data_folder, results_folder, write_json
from ..runtime.peptide_names import Sequences, several_peptides
from ..runtime.progress import progress, say
from ..runtime.run_folder import RunFolder, deciding, holding
from ..runtime.tracking import Tracker
from .md_batches import LANES, Compile, MDBatch, MDReplica, batch_replicas, run_batch


@dataclass(frozen=True, kw_only=True)
class SimulateJob:
    """Molecular dynamics of peptides, written as shards for training and trajectories to compare with.

    `sequences` (AA unless given) are built; or one peptide starts from a file, `pdb`, and is called by what that holds.
    `time_ns` of each of `replicas`. Of a peptide of split `train` the last `hold_out` replicas are kept out of the
    shards and become its reference trajectory; one of split `val` or `test` is reference only. `engine=batched` moves
    many replicas at once in float32; `compile` is its, and `mixed`: to put several peptides into one batch, padded.
    """

    sequences: Sequences | None = None
    pdb: str | None = None
    time_ns: float = 1.0
    replicas: int = 64
    hold_out: int = 16
    split: str = "train"
    engine: Literal["batched", "openmm"] = "batched"
    compile: Compile = "auto"
    mixed: bool = False
    out: str = "data"
    frames_per_shard: int = 2000
    seed: int = 0
    md: MDConfig = field(default_factory=MDConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        if self.mixed and self.engine == "openmm":
            raise ValueError("mixed=true is of engine=batched: leave it out, or choose that engine")
        if self.pdb and self.sequences:
            raise ValueError("give sequences=[AA,AL] or pdb=FILE, and not both")
        given = self.sequences if self.sequences is not None else () if self.pdb else ("AA",)
        if not given and not self.pdb:
            raise ValueError("give peptides: sequences=[AA,AL], or pdb=FILE")
        object.__setattr__(self, "sequences", several_peptides(given))
        if self.split not in ("train", "val", "test"):
            raise ValueError(f"split={self.split!r} is unknown: choose train, val or test")
        if self.time_ns <= 0 or self.replicas < 1:
            raise ValueError("time_ns must be positive, and replicas at least 1")
        if self.split == "train" and not 0 <= self.hold_out < self.replicas:
            raise ValueError(
                f"hold_out={self.hold_out} of {self.replicas} replicas leaves nothing to train on: "
                "raise replicas, or lower hold_out"
            )

    def peptides(self) -> list[Peptide]:
        """The peptides to simulate. Raises: ValueError for a file that holds none."""
        if self.pdb:
            path = data_folder(self.pdb)
            peptide = Peptide.from_pdb(path)
            try:
                check_bonds(peptide.positions[None], peptide.topology)
            except ValueError as error:
                raise ValueError(f"{path} is no structure to start from: {error}; minimise it first") from None
            return [peptide]
        return [Peptide.from_sequence(sequence) for sequence in self.sequences or ()]


def simulate(job: SimulateJob) -> Path:
    """Run `job`, or go on with it; returns the data folder, which other jobs must not write to meanwhile."""
    with holding(results_folder(job.out)) as out:
        return _simulate_into(out, job)


def _simulate_into(out: Path, job: SimulateJob) -> Path:
    peptides = job.peptides()
    names = [peptide.sequence for peptide in peptides]
    for sequence in names:
        if note := reading_note(sequence):
            say(f"note: {note}")
        if job.split == "train" and (split := published_split(sequence)):
            say(
                f"note: {sequence} is in the published {split} set; a flow that is trained on it cannot be compared "
                "with published numbers on it"
            )
    _check_references(job, out, names)
    replicas = [replica for i, p in enumerate(peptides) for replica in _replicas(job, out, i, p)]
    # Not `RunFolder.open`, which refuses other settings: a data folder takes further peptides and replicas, and each
    # replica's run.json guards its own settings.
    run = RunFolder(out, "simulate", deciding(job, ("cluster.",)))
    with run.track() as tracker, cluster(job.cluster) as resources:
        batches = batch_replicas(replicas, job.engine, job.mixed, resources)
        say(f"simulating {', '.join(names)}: {_plan(job, batches, resources)}")
        _run_all(job, batches, resources, tracker)
        _write(job, out, replicas)
    say(f"data written: {out}")
    return out


def _plan(job: SimulateJob, batches: Sequence[MDBatch], resources: Cluster) -> str:
    """Describe to the user how the work is divided."""
    each = f"{job.replicas} replicas × {job.time_ns:g} ns"
    if job.engine == "openmm":
        return f"{each}, one a core, on {resources.cpus} CPUs (OpenMM)"
    places = f"{resources.gpus} GPUs" if resources.gpus else f"{resources.cpus} CPUs"
    text = f"{each} in {len(batches)} batches on {places} (batched dynamics)"
    idle = resources.cpus - len(batches)
    if not resources.gpus and idle > 0:
        wanted = -(-LANES * resources.cpus // len({batch[0].sequence for batch in batches}))
        text += f"; {idle} CPUs stay idle, so replicas={wanted} would take no longer"
    return text


def _replicas(job: SimulateJob, out: Path, number: int, peptide: Peptide) -> list[MDReplica]:
    """The replicas of peptide `number` of the job; writes its PDB file if there is none.

    Raises: ValueError where the folder has another structure under that name than `job.pdb`.
    """
    path = out / "pdbs" / job.split / f"{peptide.sequence}.pdb"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with replacing(path) as temporary:
            temporary.write_text(peptide.to_pdb())
    text = path.read_text()
    if job.pdb and not _same_structure(Peptide.from_pdb(text), peptide):
        raise ValueError(f"{path} has another structure of {peptide.sequence} than pdb={job.pdb}: give another out=")
    return [
        MDReplica(
            peptide.sequence,
            replica,
            text,
            peptide.n_atoms,
            str(out / "md" / run_name(peptide.sequence, job.md, replica)),
            seed=(job.seed * 1000 + replica) * 10_000 + number,
        )
        for replica in range(job.replicas)
    ]


def _same_structure(one: Peptide, other: Peptide) -> bool:
    """Return True for the same atoms at the same places, whatever else the files say."""
    atoms = [[(a.residue.index, a.residue.name, a.name) for a in p.topology.atoms()] for p in (one, other)]
    return atoms[0] == atoms[1] and np.array_equal(one.positions, other.positions)


def _run_all(job: SimulateJob, batches: Sequence[MDBatch], resources: Cluster, tracker: Tracker) -> None:
    """Run all batches as tasks that yield after each chunk; each chunk of each replica counts as progress."""
    time_ps = job.time_ns * 1000
    on_gpu = job.engine == "batched" and resources.gpus > 0
    task = ray.remote(num_cpus=1, num_gpus=int(on_gpu), num_returns="streaming", max_retries=3)(run_batch)
    streams: dict[Any, MDBatch] = {
        task.remote(batch, job.engine, job.mixed, job.md, time_ps, job.compile): batch for batch in batches
    }
    per_replica = job.md.chunks(time_ps)
    done = {batch: min(per_replica, *(_chunks(replica) for replica in batch)) * len(batch) for batch in batches}
    speed: dict[MDBatch, float] = {}
    with progress("simulate", per_replica * sum(map(len, batches)), sum(done.values())) as update:
        for batch, state in _as_they_come(streams):
            if isinstance(state, str):
                say(f"note: {state}")
                continue
            done[batch] = state.chunks_done * len(batch) if state else per_replica * len(batch)
            speed[batch] = state.ps_per_second if state else 0.0
            update(sum(done.values()), f"{sum(speed.values()):.1f} ps/s")
            if state:
                logged = {"ps_per_s": sum(speed.values()), "chunks_done": sum(done.values())}
                tracker.log(logged, step=sum(done.values()))
        update(sum(done.values()), "")


def _as_they_come(streams: dict[Any, MDBatch]) -> Iterator[tuple[MDBatch, Progress | str | None]]:
    """Yield what the tasks yield, each with its batch, and None when one has ended."""
    noted = set()
    while streams:
        ready: list[Any] = ray.wait(list(streams), num_returns=1, fetch_local=False)[0]
        for stream in ready:
            try:
                state: Progress | str = fetch(next(stream))
            except StopIteration:
                yield streams.pop(stream), None
                continue
            if state not in noted:
                yield streams[stream], state
            if isinstance(state, str):
                noted.add(state)


def _chunks(replica: MDReplica) -> int:
    return len(list((Path(replica.directory) / "chunks").glob("chunk_*.npz")))


def _write(job: SimulateJob, out: Path, replicas: list[MDReplica]) -> None:
    """Trajectories → references, and shards of all frames to train on that the folder has, earlier ones too."""
    path = out / RUNS
    roles: dict[str, list[str]] = json.loads(path.read_text()) if path.exists() else {}
    for sequence in dict.fromkeys(replica.sequence for replica in replicas):
        own = [replica for replica in replicas if replica.sequence == sequence]
        held = own[len(own) - job.hold_out :] if job.split == "train" else own
        roles |= {Path(r.directory).name: [sequence, HELD_OUT if r in held else "train"] for r in own}
        if held:
            _write_reference(job, out, held)
    write_json(path, roles)
    write_training(out, job.seed, job.frames_per_shard)


def _write_reference(job: SimulateJob, out: Path, held: list[MDReplica]) -> None:
    """Write the trajectories as reference, with their atoms, force field and temperature."""
    peptide, split = Peptide.from_pdb(held[0].pdb), _reference_split(job)
    trajectories = [load_trajectory(replica.directory) for replica in held]
    time_ns = [len(x) * job.md.interval_ps / 1000 for x in trajectories]
    steps: int | None = sum(
        len(x) * job.md.steps_per_frame + job.md.warmup_steps + job.md.hot_steps for x in trajectories
    )
    if split == "val" and (others := held_out_frames(out, peptide.sequence)):
        trajectories += others
        time_ns += held_out_ns(out, peptide.sequence)
        steps = None  # nothing says how those were made
    write_reference(
        out,
        peptide,
        split,
        trajectories,
        forcefield=job.md.forcefield,
        temperature_k=job.md.temperature_k,
        engine=job.engine,
        time_ns=time_ns,
        energy_evaluations=steps,
    )


def _reference_split(job: SimulateJob) -> str:
    return "val" if job.split == "train" else job.split


def _check_references(job: SimulateJob, out: Path, names: Sequence[str]) -> None:
    """Raises: ValueError where a reference would take the place of one under other conditions."""
    for name in names if job.split != "train" or job.hold_out else ():
        for path in (out / REFERENCES / _reference_split(job)).glob(f"*AA/{name}_subsampled.npz"):
            if not (found := load_reference(path)).is_at(job.md.forcefield, job.md.temperature_k):
                wanted = conditions(job.md.forcefield, job.md.temperature_k)
                raise ValueError(f"{path} is a reference in {found.conditions}: give another out= for one in {wanted}")
