"""Importance sampling and SMC over flow and energy actors: the driver holds scalars, the actors coordinates."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import models
from molecules.peptide import Peptide, check_sequence
from molecules.references import find_pdb
from samplers import (
    SMCConfig,
    SMCState,
    SMCStep,
    SNISResult,
    com_log_density,
    ess,
    log_z_error,
    smc_steps,
    snis,
)
from samplers.com import CenterOfMass
from samplers.weights import Treatment

from .actors import ActorsConfig, Target, start_actors, stop_actors
from .cluster import ClusterConfig, cluster
from .config import claim, data_folder, flat, results_folder, results_home
from .population import Proposals, RayPopulation
from .progress import Update, progress, say
from .results import SampleSet, write_samples
from .tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class SampleJob:
    """Draw weighted conformations of one peptide from a flow.

    `sequence`, or `pdb` for one that has a file. `samples` are drawn by the flow; `sampler=smc` anneals the first
    `smc_particles` of them. `data_dir`: where to look for reference MD to compare with.
    """

    sequence: str = ""
    pdb: str | None = None
    checkpoint: str = "outputs/train/checkpoint"
    out: str = ""
    sampler: Literal["snis", "smc"] = "smc"
    samples: int = 1000
    smc_particles: int = 512
    temperature_k: float = 310.0
    com: CenterOfMass = "gaussian"
    weights: Treatment = "psis"
    seed: int = 0
    data_dir: str = "data"
    smc: SMCConfig = field(default_factory=SMCConfig)
    actors: ActorsConfig = field(default_factory=ActorsConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        if bool(self.sequence) == bool(self.pdb):
            raise ValueError("give a peptide, sequence=ARIP or pdb=FILE (and not both)")
        if self.samples < 2:
            raise ValueError(f"samples={self.samples}: at least 2 are needed for a weight to mean anything")
        if self.sampler == "smc" and not 2 <= self.smc_particles <= self.samples:
            raise ValueError(f"smc_particles={self.smc_particles} must be from 2 to samples={self.samples}")

    @property
    def folder(self) -> str:
        return self.out or f"outputs/sample/{self.sequence or Path(str(self.pdb)).stem}"


def peptide_of(job: SampleJob) -> Peptide:
    """The peptide to sample: a PDB file, one found with the data, or built from its sequence."""
    if job.pdb:
        return Peptide.from_pdb(results_home() / job.pdb)
    sequence = check_sequence(job.sequence)
    path = find_pdb(data_folder(job.data_dir), sequence)
    return Peptide.from_pdb(path) if path else Peptide.from_sequence(sequence)


def sample(job: SampleJob) -> Path:
    """Run `job`; returns the folder with its results."""
    checkpoint = results_home() / job.checkpoint
    peptide = peptide_of(job)
    flow = models.load(checkpoint)
    flow.tables([peptide])  # refuses a peptide that the flow cannot take, before anything is started
    out = results_folder(job.folder)
    settings = {k: v for k, v in flat(job).items() if not k.startswith(("cluster.", "actors.", "out", "data_dir"))}
    settings["weights_sha256"] = models.weights.fingerprint(checkpoint)
    claim(out, "sample", settings)
    if (out / "samples.npz").exists():
        say(f"already sampled: {out}")
        return out
    target = Target(pdb=peptide.to_pdb(), temperature_k=job.temperature_k, com=job.com)
    scale_nm = flow.scale_nm
    del flow
    with Tracker.open("sample", out, settings) as tracker, cluster(job.cluster) as resources:
        say(f"sampling {peptide.sequence} ({peptide.n_atoms} atoms) on {resources.cpus} CPUs, {resources.gpus} GPUs")
        flows, energies = start_actors(checkpoint, target, job.actors, resources)
        try:
            sets = list(_sample(job, flows, scale_nm, tracker))
        finally:
            stop_actors([*flows, *energies])
        write_samples(out, peptide, sets, seed=job.seed)
    return out


def _sample(job: SampleJob, flows: list[Any], scale_nm: float, tracker: Tracker) -> Iterator[SampleSet]:
    """SNIS on all draws; then, if asked for, SMC from the first of them."""
    with timed() as clock:
        drawn = Proposals.draw(flows, job.samples, job.smc.block_size, job.seed)
        result = snis(drawn.positions(), drawn.log_q, drawn.log_p, job.weights)
    diagnostics = snis_diagnostics(result) | {"seconds": clock()}
    tracker.log({f"snis_{k}": v for k, v in diagnostics.items()})
    yield SampleSet(
        name="SNIS",
        positions_nm=result.x.numpy() * scale_nm,
        log_weights=result.log_w.numpy(),
        energy_kt=drawn.energy,
        log_q=drawn.log_q,
        diagnostics=diagnostics,
    )
    if job.sampler == "smc":
        yield _anneal(job, drawn, flows, scale_nm, tracker)


def _anneal(job: SampleJob, drawn: "Proposals", flows: list[Any], scale_nm: float, tracker: Tracker) -> SampleSet:
    with timed() as clock:
        n = job.smc_particles
        population = RayPopulation.start(flows, drawn.positions()[:n], job.smc.block_size, job.seed)
        # log q of the drawing pass and of the forward pass differ in the last digits; this makes it exact.
        log_w = population.scalars()[0] - drawn.log_q[:n]
        state = SMCState.start(n, job.smc, log_w)
        steps: list[SMCStep] = []
        with progress("SMC", 1.0) as update:
            for record, after in smc_steps(population, job.smc, job.seed, state):
                state = after
                steps.append(record)
                tracker.log({f"smc_{k}": v for k, v in record._asdict().items()}, step=record.step)
                _show(update, record)
    log_q, log_p = population.scalars()
    x = population.positions()
    energy = com_log_density(torch.from_numpy(x), job.com)[0].numpy() - log_p  # no new evaluation
    diagnostics = {
        "n": n,
        "ess": ess(state.log_w),
        "log_z": steps[-1].log_z,
        "log_z_error": log_z_error(state.log_w, state.roots),
        "n_roots": steps[-1].n_roots,
        "n_failed": sum(step.n_failed for step in steps),
        "n_evaluations": state.n_evaluations,
        "n_steps": len(steps),
        "seconds": clock(),
    }
    tracker.log({f"smc_{k}": v for k, v in diagnostics.items()}, step=len(steps))
    return SampleSet(
        name="SMC",
        positions_nm=x * scale_nm,
        log_weights=state.log_w,
        energy_kt=energy,
        log_q=log_q,
        diagnostics=diagnostics,
        steps=[step._asdict() for step in steps],
    )


def _show(update: Update, record: SMCStep) -> None:
    """About half of the steps of an adaptive path go by in the logarithm of λ, the others in its square root."""
    decades = 10.0
    logarithm = np.clip(1 + np.log10(max(record.lam, 1e-300)) / decades, 0.0, 1.0)
    update(
        float(logarithm + np.sqrt(record.lam)) / 2,
        f"step {record.step}  λ {record.lam:.2e}  ESS {record.ess:.2f}  acceptance {record.acceptance:.2f}  "
        f"ancestors {record.n_roots}",
    )


def snis_diagnostics(result: SNISResult) -> dict[str, float]:
    """The scalars of an SNIS result, for tables and MLflow."""
    skip = ("x", "log_w")
    return {k: float(v) for k, v in result._asdict().items() if k not in skip and v is not None}


@contextmanager
def timed() -> Iterator[Any]:
    """Gives a function that tells the seconds since."""
    start = time.monotonic()
    yield lambda: time.monotonic() - start
