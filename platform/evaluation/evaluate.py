"""Samples of one peptide against reference MD: metrics, figures and the report."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD, forcefield_of
from boltzray.molecules.metrics import METRICS, compare, noise_floor
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.reference_record import record_path
from boltzray.molecules.references import find_pdb
from boltzray.molecules.storage import read_json

from ..report.contents import Reference, Report
from ..report.curves import load_curves
from ..report.figures import plot_report
from ..report.page import save_figures, write_report
from ..runtime.cluster import usable_cpus
from ..runtime.config import data_folder, display_path
from ..runtime.progress import progress, say
from ..runtime.run_folder import holding, sha256
from ..runtime.tracking import Tracker, provenance
from ..sampling.sample import SampleJob, sample
from ..sampling.sample_files import read_samples, sample_paths
from .reference import load_reference_ensemble, reference_files
from .result import FILE, EvaluationResult

__all__ = ["SampleJob", "evaluate_folder", "sample_and_report"]

MARKS = {"bad": "✕", "warn": "!"}
INTERVALS = 20  # bootstrap replicates
CURVES = "budgets"  # folder within that of the samples where jobs/compare.py leaves its curves


def sample_and_report(job: SampleJob) -> Path:
    """Run `job`, compare its samples with reference MD where there is some, and write the report."""
    out = sample(job)
    print_verdict(out, evaluate_folder(out, data_folder(job.data_dir), seed=job.seed))
    return out


def evaluate_folder(
    folder: Path,
    data: Path,
    *,
    intervals: int = INTERVALS,
    seed: int = 0,
    training: list[dict[str, Any]] | None = None,
    threads: int | None = None,
) -> EvaluationResult:
    """Write `metrics.json` and `report.html` of one folder of samples; returns the contents of metrics.json.

    `training`: see `Report`. `threads`: metrics computed at a time; None for two, which take 2.4 GB at most.
    """
    if not folder.is_dir():
        read_samples(folder)  # says what is missing
    with holding(folder):
        return _evaluate_into(folder, data, intervals, seed, training, threads)


def _evaluate_into(
    folder: Path, data: Path, intervals: int, seed: int, training: list[dict[str, Any]] | None, threads: int | None
) -> EvaluationResult:
    peptide, ensembles = read_samples(folder)
    settings = read_json(folder / "sample.json")
    asked = settings.get("forcefield", DEFAULT_FORCEFIELD)  # files of finetuning, and of older versions, have none
    forcefield = forcefield_of(peptide, asked)
    reference, facts, notes = load_reference_ensemble(peptide, data, settings["temperature_k"], forcefield)
    if reference:
        reference, ensembles = _compared(reference, peptide, ensembles, intervals, seed, threads)
    not_compared = facts.pop("not_compared", "")
    tracker = Tracker.find(folder)
    of_samples = {name: str(settings[name]) for name in ("checkpoint", "weights_sha256", "seed") if name in settings}
    report = Report(
        peptide=peptide,
        ensembles=ensembles,
        reference=reference,
        training=training,
        curves=load_curves(folder / CURVES),
        provenance={
            "samples": display_path(folder),
            **of_samples,
            **facts,
            **provenance(),
            **(tracker.facts() if tracker else {}),
        },
        notes=notes,
        not_compared=not_compared,
        temperature_k=float(settings["temperature_k"]),
    )
    result = EvaluationResult.of(report, evaluation_key(folder, data, peptide.sequence, intervals, seed))
    pictures = plot_report(report)
    write_report(folder / "report.html", report, pictures)
    figures = save_figures(folder / "figures", pictures)
    result.write(folder)
    if tracker:
        _record(tracker, report, [*figures, folder / "report.html", folder / FILE])
    return result


def _compared(
    reference: Reference,
    peptide: Peptide,
    ensembles: Sequence[Ensemble],
    intervals: int,
    seed: int,
    threads: int | None,
) -> tuple[Reference, list[Ensemble]]:
    """The reference with its noise floor, and the ensembles with their metrics."""
    assert reference.tica is not None  # `load_reference_ensemble` sees to it
    energies, tica, threads = reference.energy_kT, reference.tica, threads or min(2, usable_cpus())
    with progress("compare with reference MD", len(METRICS) * (1 + len(ensembles))) as update:
        finished = 0

        def done(name: str) -> None:
            nonlocal finished
            finished += 1
            update(finished, "")

        options: dict[str, Any] = {"threads": threads, "done": done}
        runs: dict[str, Any] = {"log_weights": reference.log_weights, "run_lengths": reference.run_lengths}
        floor = noise_floor(reference.positions_nm, energies, peptide, tica, **runs, **options)
        options |= {"intervals": intervals, "seed": seed, "reference_log_weights": reference.log_weights}
        found = [
            compare(
                reference.positions_nm, e.positions_nm, energies, e.energy_kT, peptide, tica, e.log_weights, **options
            )
            if np.isfinite(e.log_weights).any()
            else {}
            for e in ensembles
        ]
    return replace(reference, floor=floor), [replace(e, metrics=m) for e, m in zip(ensembles, found, strict=True)]


def evaluation_key(folder: Path, data: Path, sequence: str, intervals: int, seed: int) -> str:
    """Hash what the metrics of a folder depend on; while it is the same they need not be computed again.

    Of files it is their content, which takes 0.6 s a GB.
    """
    samples = [p for name in ("snis", "samples") for p in sample_paths(folder, name)]
    own = [folder / name for name in ("sample.json", "sampling.json", "topology.pdb", f"{CURVES}/curves.json")]
    references = reference_files(data, sequence)
    structure = find_pdb(data, sequence) if references else None  # names the atoms of files that do not
    records = [record_path(path) for path in references]
    paths = [*own, *samples, *references, *records, *([structure] if structure else [])]
    content = [(path.name, sha256(path)) for path in paths if path.is_file()]
    return hashlib.sha256(repr((content, intervals, seed)).encode()).hexdigest()[:16]


def _record(tracker: Tracker, report: Report, files: Sequence[Path]) -> None:
    for e in report.ensembles:
        tracker.log({f"{e.name.lower()}_{k}": v for k, v in e.metrics.items()})
    for path in files:
        tracker.artifact(path, "report")


def print_verdict(folder: Path, result: EvaluationResult) -> None:
    """Print the verdict, and where the report is."""
    say(f"\n{result.headline}")
    for level, text in result.verdict:
        if level in MARKS:
            say(f"  {MARKS[level]} {text}")
    for note in result.notes:
        say(f"  note: {note}")
    say(f"report: {folder / 'report.html'}")
