"""Samples of one peptide against reference MD: metrics, figures and the report."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from boltzray.molecules.metrics import MAX_FRAMES, METRICS, compare, noise_floor
from boltzray.molecules.observables import Tica, fit_tica
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.references import find_reference, load_reference
from boltzray.molecules.subsample import weighted_subsample

from ..report.contents import Ensemble, Reference, Report
from ..report.curves import load_curves
from ..report.figures import draw
from ..report.page import save_figures, write_report
from ..report.verdict import headline, verdict
from ..runtime.cluster import usable_cpus
from ..runtime.config import data_folder, display_path, write_json
from ..runtime.progress import progress, say
from ..runtime.tracking import Tracker, provenance
from ..sampling.energy_actors import EnergyConfig, Molecule, batched
from ..sampling.sample import SampleJob, sample
from ..sampling.sample_files import SampleSet, read_samples

__all__ = ["SampleJob", "evaluate_folder", "sample_and_report"]

REFERENCE_K = 310.0  # of reference trajectories, whose files do not record it
TICA_LAG = 100  # frames
INTERVALS = 20  # bootstrap replicates
CURVES = "budgets"  # folder within that of the samples where jobs/compare.py leaves its curves


def sample_and_report(job: SampleJob) -> Path:
    """Draw the samples of `job`, compare them with reference MD where there is some, and write the report."""
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
) -> dict[str, Any]:
    """Write `metrics.json` and `report.html` of one folder of samples; returns what metrics.json holds.

    `threads` is how many metrics are computed at a time: None for two, which take 2.4 GB at most.
    """
    peptide, sets = read_samples(folder)
    settings = json.loads((folder / "sample.json").read_text())
    reference, facts, notes = load_reference_ensemble(peptide, data, settings["temperature_k"])
    metrics = _metrics(reference, peptide, sets, intervals, seed, threads) if reference else [{} for _ in sets]
    ensembles = [_ensemble(sample_set, found) for sample_set, found in zip(sets, metrics, strict=True)]
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
    )
    result = _result(report, evaluation_key(folder, data, peptide.sequence, intervals, seed))
    pictures = draw(report)
    write_report(folder / "report.html", report, pictures)
    figures = save_figures(folder / "figures", pictures)
    write_json(folder / "metrics.json", result)
    if tracker:
        _record(tracker, report, [*figures, folder / "report.html", folder / "metrics.json"])
    return result


def _metrics(
    reference: Reference, peptide: Peptide, sets: Sequence[SampleSet], intervals: int, seed: int, threads: int | None
) -> list[dict[str, float]]:
    """Of each set, and of the two halves of the reference."""
    tica, threads = _tica(reference), threads or min(2, usable_cpus())
    with progress("compare with reference MD", len(METRICS) * (1 + len(sets))) as update:
        finished = 0

        def done(name: str) -> None:
            nonlocal finished
            finished += 1
            update(finished, "")

        options: dict[str, Any] = {"threads": threads, "done": done}
        reference.floor.update(noise_floor(reference.positions_nm, reference.energy_kT, peptide, tica, **options))
        options |= {"intervals": intervals, "seed": seed}
        return [
            compare(
                reference.positions_nm,
                one.positions_nm,
                reference.energy_kT,
                one.energy_kt,
                peptide,
                tica,
                one.log_weights,
                **options,
            )
            if np.isfinite(one.log_weights).any()
            else {}
            for one in sets
        ]


def evaluation_key(folder: Path, data: Path, sequence: str, intervals: int, seed: int) -> str:
    """What the metrics of a folder depend on; one that has not changed need not be computed again."""
    paths = [folder / "sampling.json", folder / CURVES / "curves.json", find_reference(data, sequence)]
    stamps = [(p.stat().st_size, p.stat().st_mtime_ns) for p in paths if p and p.exists()]
    return hashlib.sha256(repr((stamps, intervals, seed)).encode()).hexdigest()[:16]


def _result(report: Report, key: str) -> dict[str, Any]:
    findings = verdict(report)
    conclusion = headline(report, findings)
    return {
        "sequence": report.peptide.sequence,
        "reference": report.reference.source if report.reference else None,
        "verdict": [[finding.level, finding.text] for finding in findings],
        "headline": conclusion.text,
        "level": conclusion.level,
        "key": key,
        "noise_floor": report.reference.floor if report.reference else {},
        **{e.name: {"diagnostics": e.diagnostics, "metrics": e.metrics} for e in report.ensembles},
    }


def _record(tracker: Tracker, report: Report, files: Sequence[Path]) -> None:
    for e in report.ensembles:
        tracker.log({f"{e.name.lower()}_{k}": v for k, v in e.metrics.items()})
    for path in files:
        tracker.artifact(path, "report")


# --- the reference ------------------------------------------------------------------------------


def load_reference_ensemble(
    peptide: Peptide, data: Path, temperature_k: float
) -> tuple[Reference | None, dict[str, str], list[str]]:
    """Reference MD with its energies and TICA, if the data folder has it; facts about it, and notes for the reader."""
    if temperature_k != REFERENCE_K:
        note = f"the samples are at {temperature_k:g} K: reference MD, at {REFERENCE_K:g} K, says nothing"
        return None, {}, [note]
    path = find_reference(data, peptide.sequence) if peptide.encodings else None
    if path is None:
        return None, {}, [f"no reference MD of {peptide.sequence} in {data}: make it with jobs/simulate.py"]
    positions, tica = load_reference(path)
    if positions.shape[1] != peptide.n_atoms:
        raise ValueError(f"{path} has {positions.shape[1]} atoms a frame, {peptide.sequence} has {peptide.n_atoms}")
    total = len(positions)
    positions = positions[np.isfinite(positions).all(axis=(1, 2))]
    lost = total - len(positions)
    notes = [f"{lost} frames of the reference are not finite and were left out."] if lost else []
    if tica is None:
        lag = max(1, min(TICA_LAG, len(positions) // 10))
        tica = fit_tica(positions, peptide.topology, lag=lag)
        notes.append(f"The reference has no TICA file: it was fitted to the reference frames here (lag {lag} frames).")
    positions = positions[weighted_subsample(np.ones(len(positions)), MAX_FRAMES)[0]]
    energy = batched(Molecule(peptide.to_pdb(), REFERENCE_K), EnergyConfig()).evaluate_arrays(positions, gradient=False)
    reference = Reference(
        positions_nm=positions[energy.ok], energy_kT=energy.energy[energy.ok], source=display_path(path), tica=tica
    )
    facts = {
        "reference": f"{display_path(path)}, {len(reference.positions_nm)} frames of {total}",
        "reference_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    return reference, facts, notes


def _tica(reference: Reference) -> Tica:
    assert reference.tica is not None  # `find` sees to it
    return reference.tica


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


def print_verdict(folder: Path, result: dict[str, Any]) -> None:
    """The verdict and where to look, on the terminal."""
    say(f"\n{result['headline']}")
    for level, text in result["verdict"]:
        if level == "bad":
            say(f"  ✕ {text}")
    say(f"report: {folder / 'report.html'}")
