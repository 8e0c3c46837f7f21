"""Comparison of samplers at equal budgets of energies on one peptide: MD, SNIS, SMC, and SNIS of finetuned flows."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import ray

from boltzray import models
from boltzray.models.hub import DEFAULT_CHECKPOINT
from boltzray.molecules.constants import PUBLISHED_K
from boltzray.molecules.metrics import compare, noise_floor
from boltzray.molecules.observables import project
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.storage import check_seal, read_json
from boltzray.samplers import HMC, SMCConfig
from boltzray.samplers.com import CenterOfMass
from boltzray.samplers.importance_weights import Treatment

from ..report.contents import Reference
from ..report.curves import CURVE_METRICS, BudgetRun, curves, save_curves
from ..report.page import save_figures
from ..runtime.actor_pool import as_they_end, fetch
from ..runtime.cluster import Cluster, ClusterConfig, cluster
from ..runtime.config import data_folder, results_home, write_json
from ..runtime.progress import progress, say
from ..runtime.run_folder import RunFolder
from ..runtime.tracking import Tracker, provenance, warn_on_error
from ..sampling.atom_order import OrderedPeptide
from ..sampling.block_files import load_part
from ..sampling.energy_actors import EnergyConfig
from ..sampling.flow_actors import ActorsConfig, start_actors
from ..sampling.peptide_source import PeptideSource
from ..sampling.sample_files import finished
from ..sampling.target import Target, check_supported, trained_at_k
from .compare_page import write_budget_page
from .compare_runs import RunPlan, Spent, anneal_at, importance_at, md_at, simulate_all
from .evaluate import CURVES, evaluate_folder
from .reference import load_reference_ensemble

Method = Literal["md", "snis", "smc"]
MIN_BUDGET = 100  # energies, and frames that are compared: fewer say nothing
INCIDENTAL = ("cluster.", "actors.", "out", "data_dir", "finetuned", "methods")  # the others are part of each run


@dataclass(frozen=True, kw_only=True)
class CompareJob:
    """Compare samplers with reference MD at the same number of energies, each `repeats` times.

    `finetuned`: folders of jobs/finetune.py; the energies that they spent count. `frames`: of each set that are
    compared. The curves go below the samples of the peptide, whose report shows them then.
    """

    sequence: str = ""
    pdb: str | None = None
    checkpoint: str = DEFAULT_CHECKPOINT
    out: str = ""
    methods: tuple[Method, ...] = ("md", "snis", "smc")
    finetuned: tuple[str, ...] = ()
    budgets: tuple[int, ...] = (1_000, 10_000, 100_000)
    repeats: int = 4
    frames: int = 2_000
    com: CenterOfMass = "gaussian"
    weights: Treatment = "psis"
    seed: int = 0
    data_dir: str = "data"
    smc: SMCConfig = field(default_factory=lambda: replace(HMC, n_leapfrog=3, cess_target=0.95))
    energy: EnergyConfig = field(default_factory=EnergyConfig)
    actors: ActorsConfig = field(default_factory=ActorsConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sequence", self.source.sequence)
        if not self.methods and not self.finetuned:
            raise ValueError("there is nothing to compare: give methods=[md,snis,smc], or finetuned=[FOLDER]")
        if not self.budgets or min(self.budgets) < MIN_BUDGET:
            raise ValueError(f"budgets={list(self.budgets)}: give numbers of energies, {MIN_BUDGET} or more each")
        if self.repeats < 1 or self.frames < MIN_BUDGET:
            raise ValueError(f"repeats must be at least 1, and frames at least {MIN_BUDGET}")

    @property
    def source(self) -> PeptideSource:
        """The peptide to compare samplers on."""
        return PeptideSource(sequence=self.sequence, pdb=self.pdb, data_dir=self.data_dir)

    @property
    def folder(self) -> str:
        """`out`, or a folder within that of jobs/sample.py."""
        return self.out or f"outputs/sample/{self.source.name}/{CURVES}"


def compare_budgets(job: CompareJob) -> Path:
    """Run `job`, or go on with it; returns the folder with the curves."""
    checkpoint = models.locate(job.checkpoint, results_home())
    flows, peptide = _flows(job, checkpoint, job.source.load())
    reference, facts, notes = load_reference_ensemble(peptide, data_folder(job.data_dir), PUBLISHED_K)
    if reference is None:
        raise ValueError(notes[0])
    weights = models.checkpoint.fingerprint(checkpoint)
    read = {"weights_sha256": weights, "reference_sha256": facts["reference_sha256"]}
    with RunFolder.open(job.folder, "compare", job, INCIDENTAL, {"pdb": job.source.file}, **read) as folder:
        return _compare_into(folder, job, peptide, reference, flows, checkpoint, facts)


def _compare_into(
    folder: RunFolder, job: CompareJob, peptide: Peptide, reference: Reference, flows: "list[_Flow]", checkpoint: Path,
    facts: dict[str, str],
) -> Path:  # fmt: skip
    out, weights = folder.path, folder.settings["weights_sha256"]
    with folder.track() as tracker, cluster(job.cluster) as resources:
        _sample_all(job, out, peptide, reference, flows, trained_at_k(checkpoint), resources, tracker)
        runs = _measure_all(out, reference, peptide, job.frames)
        options: dict[str, Any] = {"only": CURVE_METRICS, "frames": job.frames}
        options |= {"log_weights": reference.log_weights, "run_lengths": reference.run_lengths}
        assert reference.tica is not None
        floor = noise_floor(reference.positions_nm, reference.energy_kT, peptide, reference.tica, **options)
    save_curves(out, runs, floor)
    facts |= {"checkpoint": job.checkpoint, "weights_sha256": weights, "seed": str(job.seed)}
    found = curves(runs, floor)
    pictures = write_budget_page(out / "compare.html", peptide.sequence, found, facts | provenance())
    with warn_on_error("logging to MLflow"):
        for curve, point in ((c, p) for c in found for p in c.points):
            name = curve.method.lower().replace(" ", "_")
            tracker.log({f"{name}_{k}": v for k, v in point.mean.items()}, step=point.budget)
        for path in [*save_figures(out / "figures", pictures), out / "compare.html", out / "runs.csv"]:
            tracker.artifact(path, "compare")
    say(f"curves: {out / 'compare.html'}")
    if finished(out.parent):
        evaluate_folder(out.parent, data_folder(job.data_dir))
        say(f"report: {out.parent / 'report.html'}")
    return out


# --- conformations ------------------------------------------------------------------------------


class _Flow(NamedTuple):
    """A flow to sample: the one of the job, or a finetuned one and what that has cost."""

    path: Path
    scale_nm: float
    spent: Spent | None


def _flows(job: CompareJob, checkpoint: Path, given: Peptide) -> tuple[list[_Flow], Peptide]:
    """Flows to sample, and the peptide as they take it. Raises: ValueError for one that cannot take it."""
    spent = [Spent.read(data_folder(folder)) for folder in job.finetuned]
    wanted: list[tuple[Path, Spent | None]] = [(checkpoint, None)] if {"snis", "smc"} & set(job.methods) else []
    found, peptide = [], given.iupac()
    for path, cost in [*wanted, *((s.checkpoint, s) for s in spent)]:
        flow = models.checkpoint.outline(path)
        check_supported(flow, job.com, smc="smc" in job.methods and path == checkpoint)
        peptide = OrderedPeptide.of(given, flow).peptide
        found.append(_Flow(path, flow.scale_nm, cost))
    return found, peptide


def _sample_all(
    job: CompareJob,
    out: Path,
    peptide: Peptide,
    reference: Reference,
    flows: list[_Flow],
    trained_at: float,
    resources: Cluster,
    tracker: Tracker,
) -> None:
    """Write a file of conformations for each method, budget and repeat to out/runs."""
    tica = reference.tica
    assert tica is not None
    (out / "runs").mkdir(exist_ok=True)
    plan = RunPlan(
        folder=out, budgets=tuple(sorted(job.budgets)), repeats=job.repeats, frames=job.frames, seed=job.seed
    )
    if "md" in job.methods and plan.missing("MD"):
        simulate_all(plan, peptide, resources)
        md_at(plan, peptide, lambda x: project(tica, x, peptide.topology)[:, 0])
    target = Target(pdb=peptide.to_pdb(), temperature_k=PUBLISHED_K, com=job.com, trained_at_k=trained_at)
    for path, scale_nm, spent in flows:
        snis = spent is not None or "snis" in job.methods
        smc = spent is None and "smc" in job.methods
        if not (snis and plan.missing(spent.method if spent else "SNIS")) and not (smc and plan.missing("SMC")):
            continue
        actors = start_actors(path, target, job.actors, job.energy, resources)
        try:
            if snis:
                importance_at(plan, actors.workers, scale_nm, job.weights, spent)
            if smc:
                anneal_at(plan, actors.workers, scale_nm, job.smc, target, tracker)
        finally:
            actors.stop()


# --- metrics ------------------------------------------------------------------------------------


def _measure_all(out: Path, reference: Reference, peptide: Peptide, frames: int) -> list[BudgetRun]:
    """Read the metrics of every file in out/runs; those that are not there yet are computed in Ray tasks."""
    paths = sorted((out / "runs").glob("*.npz"))
    missing = [path for path in paths if not path.with_suffix(".json").exists()]
    task: Any = ray.remote(num_cpus=1)(_measure)
    inputs = ray.put((reference, peptide))
    running = {task.remote(str(path), inputs, frames): path for path in missing}
    with progress("compare", len(missing)) as update:
        for done, (path, metrics) in enumerate(as_they_end(running), start=1):
            write_json(path.with_suffix(".json"), fetch(metrics))
            update(done, path.stem)
    order = {"MD": 0, "SNIS": 1, "SMC": 2}
    runs = [_run(path) for path in paths]
    return sorted(runs, key=lambda r: (order.get(r.method, 3), r.method, r.budget, r.repeat))


def _measure(path: str, inputs: tuple[Reference, Peptide], frames: int) -> dict[str, float]:
    reference, peptide = inputs
    arrays = load_part(Path(path), "positions_nm", "energy_kT", "log_weights")
    assert reference.tica is not None
    return compare(
        reference.positions_nm,
        arrays["positions_nm"],
        reference.energy_kT,
        arrays["energy_kT"],
        peptide,
        reference.tica,
        arrays["log_weights"],
        reference_log_weights=reference.log_weights,
        only=CURVE_METRICS,
        frames=frames,
    )


def _run(path: Path) -> BudgetRun:
    metrics = read_json(path.with_suffix(".json"))
    check_seal(path)
    with np.load(path) as file:
        effective = float(file["effective"])
        if math.isfinite(effective):
            metrics["effective"] = effective
        return BudgetRun(
            method=str(file["method"]),
            budget=int(file["budget"]),
            repeat=int(file["repeat"]),
            energies=float(file["energies"]),
            seconds=float(file["seconds"]),
            metrics=metrics,
        )
