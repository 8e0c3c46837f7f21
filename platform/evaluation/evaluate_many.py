"""Many peptides: sampled where they are not yet, compared with reference MD, and put into one table."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from boltzray import models
from boltzray.models.hub import DEFAULT_CHECKPOINT
from boltzray.molecules.references import published_sequences, sequences_with_reference
from boltzray.molecules.storage import read_json

from ..runtime.cluster import ClusterConfig, cluster
from ..runtime.config import data_folder, display_path, results_folder, results_home
from ..runtime.peptide_names import Lengths, Sequences, several_peptides
from ..runtime.progress import say
from ..runtime.run_folder import holding
from ..runtime.telemetry import with_ray
from ..runtime.tracking import Tracker, provenance, warn_on_error
from ..sampling.flow_actors import runs_here
from ..sampling.sample import SampleJob, SamplingOptions, sample
from ..sampling.sample_files import read_samples
from .evaluate import INTERVALS, evaluate_folder, evaluation_key, print_verdict
from .result import EvaluationResult
from .summary import write_summary
from .summary_rows import Row, rows_of

COMPARISON = 20_000  # energies that take as long as a comparison with reference MD


@dataclass(frozen=True, kw_only=True)
class PerPeptideOptions(SamplingOptions):
    """Options of sampling each of several peptides. The job names these: the keys of `SampleJob` for one stay empty."""

    sequence: str = ""
    pdb: str | None = None
    out: str = ""

    def __post_init__(self) -> None:
        if self.sequence or self.pdb or self.out:
            raise ValueError("name the peptides by split=, published= or sequences=, and the folder by out=")
        super().__post_init__()

    def job(self, sequence: str, out: Path) -> SampleJob:
        """Make the job of one peptide."""
        return SampleJob(**(vars(self) | {"sequence": sequence, "out": str(out)}))


@dataclass(frozen=True, kw_only=True)
class EvaluateJob:
    """Compare samples with the reference MD below `data_dir`: folders of them, or peptides, sampled as `sample` says.

    `split`: all its peptides that have reference MD; or `published`: the test peptides of the published tables with so
    many residues, with reference MD or without; or `sequences`. What is there already is not made again.
    `checkpoints`: several flows in place of `checkpoint`, each sampled by the same protocol, in one table.
    `intervals`: bootstrap replicates of each metric, for confidence intervals.
    """

    samples: tuple[str, ...] = ()
    split: str = ""
    published: Lengths = ()
    sequences: Sequences = ()
    checkpoint: str = DEFAULT_CHECKPOINT
    checkpoints: tuple[str, ...] = ()
    out: str = ""
    data_dir: str = "data"
    intervals: int = INTERVALS
    seed: int = 0
    sample: PerPeptideOptions = PerPeptideOptions(sampler="snis", samples=10_000)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        given = [name for name in ("samples", "split", "published", "sequences") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError("give one of samples=[outputs/sample/AA], split=test, published=2, sequences=[AA,ARIP]")
        for length in self.published:
            if not published_sequences("test", length):
                raise ValueError(f"published={length}: the published tables have test peptides of 2, 4 and 8 residues")
        object.__setattr__(self, "published", tuple(dict.fromkeys(self.published)))
        object.__setattr__(self, "sequences", several_peptides(self.sequences))
        if self.checkpoints and self.samples:
            raise ValueError("checkpoints= are sampled: give split=, published= or sequences=, not samples=")
        if self.intervals < 0:
            raise ValueError(f"intervals={self.intervals}: give 0 for no confidence intervals, or more")

    @property
    def folder(self) -> str:
        published = "".join(f"-{length}" for length in self.published)
        return self.out or f"outputs/evaluate/{self.split or (published and f'published{published}') or 'peptides'}"

    def peptides(self, data: Path) -> list[str]:
        """Names of the peptides that are sampled."""
        if self.published:
            return [sequence for length in self.published for sequence in published_sequences("test", length)]
        return list(self.sequences) or sequences_with_reference(data, self.split)

    def jobs(self, sequences: Sequence[str], out: Path) -> dict[str, SampleJob]:
        """Jobs of all peptides by their folders below `out`: SEQUENCE, or MODEL/SEQUENCE for several checkpoints."""
        if not self.checkpoints:
            return {sequence: self.sample.job(sequence, out / sequence) for sequence in sequences}
        return {
            f"{name}/{sequence}": replace(self.sample, checkpoint=checkpoint).job(sequence, out / name / sequence)
            for name, checkpoint in model_names(self.checkpoints).items()
            for sequence in sequences
        }


def model_names(checkpoints: Sequence[str]) -> dict[str, str]:
    """Short names of checkpoints, for folders and tables: of the file, or of the folder of a run; numbered if alike."""
    found: dict[str, str] = {}
    for checkpoint in checkpoints:
        path = PurePath(checkpoint)
        name = path.parent.name if path.name in ("checkpoint", "best") else path.stem
        name = re.sub(r"[^\w.-]", "_", name) or "model"
        again = sum(re.fullmatch(rf"{re.escape(name)}(-\d+)?", other) is not None for other in found)
        found[f"{name}-{again + 1}" if again else name] = checkpoint
    return found


def evaluate(job: EvaluateJob) -> None:
    """Sample and compare all peptides; one that fails does not stop the others.

    Raises: RuntimeError at the end, when some failed; at once, as `models.load`, for a flow that cannot be read.
    """
    data = data_folder(job.data_dir)
    if job.samples:
        folders = [data_folder(folder) for folder in job.samples]
        for folder in folders:
            read_samples(folder)
        if len(folders) == 1 and not job.out:
            print_verdict(folders[0], evaluate_folder(folders[0], data, intervals=job.intervals, seed=job.seed))
            return
        named = {folder.name: folder for folder in folders}
        with holding(results_folder(job.folder)) as out:
            with _place(job, len(named), 0):
                failed = _compare_all(job, data, named, again=True)
            _summarise(job, out, named, failed, data)
    else:
        for checkpoint in job.checkpoints or (job.sample.checkpoint,):  # one that is not there is told at once
            models.checkpoint.outline(models.locate(checkpoint, results_home()))
        with holding(results_folder(job.folder)) as out:
            failed = _sample_and_compare(job, out, data)
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise RuntimeError(f"{len(failed)} failed ({reasons}): the same command tries them again")


def _sample_and_compare(job: EvaluateJob, out: Path, data: Path) -> dict[str, str]:
    """Sample, compare and summarise all peptides; returns the reasons of those that failed."""
    sequences = job.peptides(data)
    say(f"{len(sequences)} peptides: {', '.join(sequences)}")
    jobs = job.jobs(sequences, out)
    folders_of = {name: out / name for name in jobs}
    with _place(job, len(jobs), job.sample.energies):
        failed = _sample_all(jobs)
        sampled = {name: folder for name, folder in folders_of.items() if name not in failed}
        failed |= _compare_all(job, data, sampled, again=False)
    _summarise(job, out, folders_of, failed, data)
    return failed


def _place(job: EvaluateJob, peptides: int, energies: int) -> AbstractContextManager[Any]:
    """Start a cluster for all that follows, unless it is small, with so many energies a peptide."""
    here = runs_here(job.sample.actors, peptides * (energies + COMPARISON))
    return nullcontext() if here else cluster(job.cluster)


def _sample_all(jobs: dict[str, SampleJob]) -> dict[str, str]:
    """Sample one peptide after the other, each on the whole cluster; returns the reasons of those that failed."""
    failed = {}
    for number, (name, job) in enumerate(jobs.items(), start=1):
        say(f"\n{number}/{len(jobs)}  {name}")
        try:
            sample(job)
        except Exception as error:
            failed[name] = _reason(error)
            say(f"  ✕ {name} failed: {failed[name]}")
    return failed


def _compare_all(job: EvaluateJob, data: Path, folders: dict[str, Path], again: bool) -> dict[str, str]:
    """Compare all; returns the reasons of those that failed."""
    wanted = {name: folder for name, folder in folders.items() if again or not _is_done(job, data, folder)}
    failed, total = {}, len(wanted)
    compared = _compared_in_tasks if with_ray() else _compared_here
    for number, (name, result_of) in enumerate(compared(job, data, wanted), start=1):
        try:
            result = result_of()
        except Exception as error:
            failed[name] = _reason(error)
            say(f"  ✕ {name} failed: {failed[name]}")
            continue
        say(f"{number}/{total}  {name}: {result.headline}  {display_path(folders[name] / 'report.html')}")
        for note in result.notes:
            say(f"  note: {note}")
    return failed


Compared = Iterator[tuple[str, Callable[[], EvaluationResult]]]


def _compared_here(job: EvaluateJob, data: Path, folders: dict[str, Path]) -> Compared:
    """Compare one after the other, in this process."""
    for name, folder in folders.items():
        yield name, partial(evaluate_folder, folder, data, intervals=job.intervals, seed=job.seed)


def _compared_in_tasks(job: EvaluateJob, data: Path, folders: dict[str, Path]) -> Compared:
    """Compare side by side, a Ray task each."""
    import ray

    from ..runtime.actor_pool import as_they_end, fetch

    task: Any = ray.remote(num_cpus=1)(evaluate_folder)
    options = {"intervals": job.intervals, "seed": job.seed, "threads": 1}
    running = {task.remote(folder, data, **options): name for name, folder in folders.items()}
    for name, reference in as_they_end(running):
        yield name, partial(fetch, reference)


def _is_done(job: EvaluateJob, data: Path, folder: Path) -> bool:
    found = EvaluationResult.read(folder) if (folder / "report.html").exists() else None
    return found is not None and found.key == evaluation_key(folder, data, found.sequence, job.intervals, job.seed)


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _summarise(job: EvaluateJob, out: Path, folders: dict[str, Path], failed: dict[str, str], data: Path) -> None:
    rows: list[Row] = []
    for name, folder in folders.items():
        result = EvaluationResult.read(folder) if name not in failed else None
        model, _, peptide = name.rpartition("/")
        rows += rows_of(peptide, folder, result, failed.get(name, ""), model)
    flows = ", ".join(job.checkpoints) or job.checkpoint
    settings = {"checkpoint": flows, "peptides": len(folders), "intervals": job.intervals, "seed": job.seed}
    with Tracker.open("evaluate", out, settings) as tracker:
        files = write_summary(
            out, rows, {**{k: str(v) for k, v in settings.items()}, "data": display_path(data)} | provenance()
        )
        with warn_on_error("logging to MLflow"):
            for path in files:
                tracker.artifact(path, "summary")
            tracker.log(read_json(out / "means.json")["flat"])
    say(f"\nsummary: {out / 'summary.html'}")
