"""Samples against reference MD: metrics, figures and the report."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray

from molecules.energy import OpenMMEnergy
from molecules.metrics import MAX_FRAMES, compare, thin
from molecules.observables import fit_tica
from molecules.peptide import Peptide
from molecules.references import find_reference, load_reference

from .cluster import ClusterConfig, cluster
from .config import data_folder, results_home, shown, write_json
from .pool import fetch
from .progress import say
from .report import save_figures, write_report
from .results import SampleSet, read_samples
from .sampling import SampleJob, sample
from .tracking import Tracker, provenance
from .verdict import Ensemble, Reference, Report, headline, verdict

__all__ = ["EvaluateJob", "SampleJob", "evaluate", "evaluate_folder", "sample_and_report"]

REFERENCE_K = 310.0  # of reference trajectories, whose files do not record it


@dataclass(frozen=True, kw_only=True)
class EvaluateJob:
    """Compare finished samples with the reference MD below `data_dir`.

    `intervals`: bootstrap replicates of each metric, for confidence intervals; each costs as much as the comparison.
    """

    samples: tuple[str, ...] = ()
    data_dir: str = "data"
    intervals: int = 0
    seed: int = 0
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError("give folders of jobs/sample.py: samples=[outputs/sample/AA]")


def evaluate(job: EvaluateJob) -> None:
    """Metrics and report of each folder in `job.samples`, one Ray task each."""
    folders = [results_home() / folder for folder in job.samples]
    for folder in folders:
        read_samples(folder)
    with cluster(job.cluster):
        task: Any = ray.remote(num_cpus=1)(evaluate_folder)
        running = {
            task.remote(folder, data_folder(job.data_dir), intervals=job.intervals, seed=job.seed): folder
            for folder in folders
        }
        while running:
            for reference in ray.wait(list(running), num_returns=1)[0]:
                show(running.pop(reference), fetch(reference))


def sample_and_report(job: SampleJob) -> Path:
    """Draw the samples of `job`, compare them with reference MD where there is some, and write the report."""
    out = sample(job)
    show(out, evaluate_folder(out, data_folder(job.data_dir), seed=job.seed))
    return out


def evaluate_folder(
    folder: Path,
    data: Path,
    *,
    intervals: int = 0,
    seed: int = 0,
    training: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write `metrics.json` and `report.html` of one folder of samples; returns what metrics.json holds."""
    peptide, sets = read_samples(folder)
    temperature_k = json.loads((folder / "sample.json").read_text())["temperature_k"]
    reference, tica, notes = _reference(peptide, data, temperature_k)
    ensembles = []
    for sample_set in sets:
        metrics: dict[str, float] = {}
        if reference is not None:
            say(f"comparing {sample_set.name} with reference MD (a minute or two for 10⁴ frames of each)")
            metrics = compare(
                reference.positions_nm,
                sample_set.positions_nm,
                reference.energy_kT,
                sample_set.energy_kt,
                peptide,
                tica,
                sample_set.log_weights,
                intervals=intervals,
                seed=seed,
            )
        ensembles.append(_ensemble(sample_set, metrics))
    tracker = Tracker.find(folder)
    facts = {
        "samples": shown(folder),
        "seed": str(seed),
        **provenance(),
        **(tracker.facts() if tracker else {}),
    }
    report = Report(
        peptide=peptide,
        ensembles=ensembles,
        reference=reference,
        training=training,
        provenance=facts,
        notes=notes,
    )
    findings = verdict(report)
    result = {
        "sequence": peptide.sequence,
        "reference": reference.source if reference else None,
        "verdict": [[finding.level, finding.text] for finding in findings],
        "headline": headline(report, findings).text,
        **{e.name: {"diagnostics": e.diagnostics, "metrics": e.metrics} for e in ensembles},
    }
    write_json(folder / "metrics.json", result)
    write_report(folder / "report.html", report)
    if tracker:
        for e in ensembles:
            tracker.log({f"{e.name.lower()}_{k}": v for k, v in e.metrics.items()})
        for path in [
            *save_figures(folder / "figures", report),
            folder / "report.html",
            folder / "metrics.json",
        ]:
            tracker.artifact(path, "report")
    return result


def _reference(peptide: Peptide, data: Path, temperature_k: float) -> tuple[Reference | None, Any, list[str]]:
    """Reference MD with its energies and TICA, if the data folder has it."""
    if temperature_k != REFERENCE_K:
        return None, None, [f"the samples are at {temperature_k:g} K: reference MD, at {REFERENCE_K:g} K, says nothing"]
    path = find_reference(data, peptide.sequence) if peptide.encodings else None
    if path is None:
        return None, None, [f"no reference MD of {peptide.sequence} in {data}: make it with jobs/simulate.py"]
    positions, tica = load_reference(path)
    if positions.shape[1] != peptide.n_atoms:
        raise ValueError(f"{path} has {positions.shape[1]} atoms a frame, {peptide.sequence} has {peptide.n_atoms}")
    rows, _ = thin(np.ones(len(positions)), MAX_FRAMES)
    notes = []
    if tica is None:
        tica = fit_tica(positions, peptide.topology)
        notes.append("the reference has no TICA file: it was fitted to the reference frames here")
    positions = positions[rows]
    energy = OpenMMEnergy(peptide).evaluate(positions, gradient=False)
    reference = Reference(positions_nm=positions[energy.ok], energy_kT=energy.energy[energy.ok], source=shown(path))
    return reference, tica, notes


def _ensemble(sample_set: SampleSet, metrics: dict[str, float]) -> Ensemble:
    return Ensemble(
        name=sample_set.name,
        positions_nm=sample_set.positions_nm,
        log_weights=sample_set.log_weights,
        energy_kT=sample_set.energy_kt,
        diagnostics=sample_set.diagnostics,
        metrics=metrics,
        steps=sample_set.steps,
    )


def show(folder: Path, result: dict[str, Any]) -> None:
    """The verdict and where to look, on the terminal."""
    say(f"\n{result['headline']}")
    for level, text in result["verdict"]:
        if level == "bad":
            say(f"  ✕ {text}")
    say(f"report: {folder / 'report.html'}")
