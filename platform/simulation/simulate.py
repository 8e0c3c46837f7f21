"""Molecular dynamics as Ray tasks, each of a batch of replicas, then written in the public layout."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray

from boltzray.molecules.energy import only_openmm
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.reference_match import check_bonds
from boltzray.molecules.references import published_split
from boltzray.molecules.replica_exchange import ExchangeConfig, ladder_name
from boltzray.molecules.runs import MDConfig, Progress, run_name
from boltzray.molecules.sequences import reading_note
from boltzray.molecules.storage import replacing

from ..data.sources import HELD_OUT, Run, read_runs, write_runs, write_training
from ..runtime.actor_pool import fetch
from ..runtime.cluster import Cluster, ClusterConfig, cluster
from ..runtime.config import data_folder, results_folder
from ..runtime.peptide_names import Sequences, several_peptides
from ..runtime.progress import progress, say
from ..runtime.run_folder import RunFolder, deciding, holding
from ..runtime.tracking import Tracker, provenance
from .heat import heat
from .ladders import choose_ladders, run_ladders
from .md_batches import LANES, Compile, MDBatch, MDReplica, batch_replicas, run_batch
from .outcome import Outcome, write_outcome
from .roles import check_references, check_untrained, divide_runs
from .starts import choose_starts

REPLICAS = {"md": 64, "remd": 8}  # unless given
HELD = {"md": 0.25, "remd": 0.5}  # fraction of them; of ladders the reference wants four or more
MAX_PAGES = 64  # peptides of a job, of which each has a page


@dataclass(frozen=True, kw_only=True)
class SimulateJob:
    """Molecular dynamics of peptides, written as shards for training and trajectories to compare with.

    `sequences` (AA unless given) are built; or one peptide starts from a file, `pdb`, and is called by what that holds.
    `time_ns` of each of `replicas`: independent runs, of `method=remd` ladders of replica exchange, of which the
    lowest rung is trained on and all rungs make the reference. Of a peptide of split `train` the last `hold_out`
    replicas are kept out of the shards and become its reference trajectory; one of split `val` or `test` is reference
    only. `engine=batched` moves many replicas at once in float32; `compile` is its, and `mixed`: to put several
    peptides into one batch, padded.
    """

    sequences: Sequences | None = None
    pdb: str | None = None
    time_ns: float = 1.0
    method: Literal["md", "remd"] = "md"
    replicas: int | None = None
    hold_out: int | None = None
    split: str = "train"
    engine: Literal["batched", "openmm"] = "batched"
    compile: Compile = "auto"
    mixed: bool = False
    out: str = "data"
    frames_per_shard: int = 2000
    seed: int = 0
    md: MDConfig = field(default_factory=MDConfig)
    remd: ExchangeConfig = field(default_factory=ExchangeConfig)
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
        if self.method not in ("md", "remd"):
            raise ValueError(f"method={self.method!r} is unknown: choose md or remd")
        if self.method == "remd":
            if self.mixed:
                raise ValueError("mixed=true is of method=md: a ladder fills a batch by itself")
            if self.md.start:
                raise ValueError("md.start is of method=md: ladders find the slow states by themselves")
            self.remd.check(self.md)
        if not 0 < self.time_ns < np.inf or self.runs < 1:
            raise ValueError("time_ns must be positive, and replicas at least 1")
        if self.split == "train" and not 0 <= self.held < self.runs:
            raise ValueError(
                f"hold_out={self.held} of {self.runs} replicas leaves nothing to train on: "
                "raise replicas, or lower hold_out"
            )

    @property
    def runs(self) -> int:
        """Independent runs of each peptide: `replicas`, or as many as the method wants."""
        return self.replicas if self.replicas is not None else REPLICAS[self.method]

    @property
    def held(self) -> int:
        """Runs that make the reference: `hold_out` or a part of them for split train, all for others."""
        if self.split != "train":
            return self.runs
        return self.hold_out if self.hold_out is not None else int(self.runs * HELD[self.method])

    def peptides(self) -> list[Peptide]:
        """The peptides to simulate. Raises: ValueError for a file that holds none."""
        if self.pdb:
            path = data_folder(self.pdb)
            peptide = Peptide.from_pdb(path, states=True)
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
    job = _for_own_system(job, peptides)
    names = [peptide.sequence for peptide in peptides]
    for sequence in names:
        if note := reading_note(sequence):
            say(f"note: {note}")
        if job.split == "train" and (split := published_split(sequence)):
            say(
                f"note: {sequence} is in the published {split} set; a flow that is trained on it cannot be compared "
                "with published numbers on it"
            )
    # Not `RunFolder.open`, which refuses other settings: a data folder takes further peptides and replicas, and each
    # replica's run.json guards its own settings.
    run = RunFolder(out, "simulate", deciding(job, ("cluster.",)))
    if job.split != "train":
        check_untrained(out, names)
    if job.method == "md":
        _check_references(job, out, dict.fromkeys(names, job.md.temperature_k))
    pdbs = {peptide.sequence: _structure(job, out, peptide) for peptide in peptides}
    with run.track() as tracker, cluster(job.cluster) as resources:
        ladders: dict[str, tuple[float, ...]] = {}
        if job.method == "remd":
            ladders = choose_ladders(out, pdbs, job.engine, job.md, job.remd, job.compile, resources)
            _check_references(job, out, {name: _rung_k(job, ladder) for name, ladder in ladders.items()})
        replicas = [
            replica
            for i, peptide in enumerate(peptides)
            for replica in _replicas(job, out, i, peptide, pdbs[peptide.sequence], ladders.get(peptide.sequence, ()))
        ]
        if job.md.start:
            choose_starts(replicas, job.md, job.engine == "batched" and resources.gpus > 0)
        batches = batch_replicas(replicas, job.engine, job.mixed, resources)
        say(f"simulating {', '.join(names)}: {_plan(job, batches, resources)}")
        _run_all(job, batches, resources, tracker)
        _write(job, out, replicas, tracker)
    say(f"data written: {out}")
    return out


def _for_own_system(job: SimulateJob, peptides: Sequence[Peptide]) -> SimulateJob:
    """The job in the force field that a molecule brings with it, by an engine that knows its forces."""
    if not (own := peptides[0].own_forcefield):
        return job
    if job.engine == "batched" and (reason := only_openmm(peptides[0])):
        say(f"note: OpenMM runs the dynamics, one replica a core: {reason.split(': use')[0]}")
        job = replace(job, engine="openmm")
    return replace(job, md=replace(job.md, forcefield=own))


def _rung_k(job: SimulateJob, ladder: Sequence[float]) -> float:
    if not 0 <= job.remd.rung < len(ladder):
        raise ValueError(f"remd.rung={job.remd.rung}: the ladder has rungs 0 to {len(ladder) - 1}")
    return ladder[job.remd.rung]


def _plan(job: SimulateJob, batches: Sequence[MDBatch], resources: Cluster) -> str:
    """Describe to the user how the work is divided."""
    what = "replicas" if job.method == "md" else "ladders"
    each = f"{job.runs} {what} × {job.md.chunks(job.time_ns * 1000) * job.md.ps_per_chunk / 1000:g} ns"
    if job.engine == "openmm":
        return f"{each}, one a core, on {resources.cpus} CPUs (OpenMM)"
    places = f"{resources.gpus} GPUs" if resources.gpus else f"{resources.cpus} CPUs"
    text = f"{each} in {len(batches)} batches on {places} (batched dynamics)"
    idle = resources.cpus - len(batches)
    rungs = max(batch[0].rows for batch in batches)
    wanted = resources.cpus // len({batch[0].sequence for batch in batches}) * (LANES // rungs)
    if not resources.gpus and idle > 0 and wanted > job.runs:
        text += f"; {idle} CPUs stay idle, so replicas={wanted} would take no longer"
    return text


def _structure(job: SimulateJob, out: Path, peptide: Peptide) -> str:
    """Text of the peptide's PDB file, which is written if there is none.

    Raises: ValueError where the folder has another structure under that name than `job.pdb`.
    """
    path = out / "pdbs" / job.split / f"{peptide.sequence}.pdb"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        text = peptide.to_pdb()
        with replacing(path) as temporary:
            temporary.write_text(text)
        return text
    stored = Peptide.from_pdb(path)
    if stored.sequence != peptide.sequence:
        raise ValueError(f"{path} is not of {peptide.sequence}, or damaged: delete it, and it is written again")
    if job.pdb and not _same_structure(stored, peptide):
        raise ValueError(f"{path} has another structure of {peptide.sequence} than pdb={job.pdb}: give another out=")
    return path.read_text()


def _replicas(
    job: SimulateJob, out: Path, number: int, peptide: Peptide, pdb: str, temperatures_k: tuple[float, ...]
) -> list[MDReplica]:
    """The replicas of peptide `number` of the job, or its ladders."""
    name = run_name if job.method == "md" else ladder_name
    return [
        MDReplica(
            peptide.sequence,
            replica,
            pdb,
            peptide.n_atoms,
            str(out / "md" / name(peptide.sequence, job.md, replica)),
            seed=(job.seed * 1000 + replica) * 10_000 + number,
            temperatures_k=temperatures_k,
        )
        for replica in range(job.runs)
    ]


def _same_structure(one: Peptide, other: Peptide) -> bool:
    """Return True for the same atoms at the same places, whatever else the files say."""
    atoms = [[(a.residue.index, a.residue.name, a.name) for a in p.topology.atoms()] for p in (one, other)]
    return atoms[0] == atoms[1] and np.array_equal(one.positions, other.positions)


def _run_all(job: SimulateJob, batches: Sequence[MDBatch], resources: Cluster, tracker: Tracker) -> None:
    """Run all batches as tasks that yield after each chunk; each chunk of each replica counts as progress."""
    time_ps = job.time_ns * 1000
    on_gpu = job.engine == "batched" and resources.gpus > 0
    options: dict[str, Any] = {"num_cpus": 1, "num_gpus": int(on_gpu), "num_returns": "streaming", "max_retries": 3}
    plain = job.method == "md"
    task: Any = ray.remote(**options)(run_batch if plain else run_ladders)
    settings: tuple[Any, ...] = (job.engine, job.mixed, job.md) if plain else (job.engine, job.md, job.remd)
    streams: dict[Any, MDBatch] = {task.remote(batch, *settings, time_ps, job.compile): batch for batch in batches}
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


def _write(job: SimulateJob, out: Path, replicas: list[MDReplica], tracker: Tracker) -> None:
    """Trajectories → references, and shards of all frames to train on that the folder has, earlier ones too."""
    runs, held = read_runs(out), dict[str, list[str]]()
    for sequence in dict.fromkeys(replica.sequence for replica in replicas):
        own = [Path(replica.directory).name for replica in replicas if replica.sequence == sequence]
        roles = divide_runs(own, runs, job.held)
        runs |= {name: Run(sequence, role, _rung(job)) for name, role in roles.items()}
        held[sequence] = [name for name, role in roles.items() if role == HELD_OUT]
    pdbs = {replica.sequence: replica.pdb for replica in replicas}
    _write_references(job, out, {pdbs[name]: group for name, group in held.items() if group}, tracker)
    write_runs(out, runs)
    write_training(out, job.seed, job.frames_per_shard)
    if job.method == "md" and (warning := heat(out, job.md, pdbs, runs)):
        say(f"warning: {warning}")


def _write_references(job: SimulateJob, out: Path, held: Mapping[str, list[str]], tracker: Tracker) -> None:
    """Write the reference of each peptide and its page, a task each; says which have not converged.

    `held`: directories of its runs, by the text of its PDB file.
    """
    facts, split = {**provenance(), **tracker.facts()}, _reference_split(job)
    task = ray.remote(num_cpus=1, max_retries=3)(write_outcome)
    common = (out, split, job.md, job.engine, job.remd.rung, facts, len(held) <= MAX_PAGES)
    running = [task.remote(pdb, [str(out / "md" / name) for name in names], *common) for pdb, names in held.items()]
    with progress("write references", len(held)) as update:
        while running:
            (done,), running = ray.wait(running, num_returns=1)
            outcome: Outcome = fetch(done)
            say(outcome.text)
            for note in outcome.notes:
                say(f"note: {note}")
            for path in outcome.page:
                tracker.artifact(path, "simulation")
            update(len(held) - len(running), "")


def _rung(job: SimulateJob) -> int | None:
    return job.remd.rung if job.method == "remd" else None


def _reference_split(job: SimulateJob) -> str:
    return "val" if job.split == "train" else job.split


def _check_references(job: SimulateJob, out: Path, temperatures_k: Mapping[str, float]) -> None:
    ladders = job.method == "remd"
    known = {run.sequence for run in read_runs(out).values() if run.role == HELD_OUT and run.is_ladder == ladders}
    written = {name: k for name, k in temperatures_k.items() if job.held or name in known}
    check_references(out, _reference_split(job), written, job.md.forcefield, ladders)
