"""Importance sampling and SMC over workers: the driver holds scalars, the workers coordinates."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from boltzray import models
from boltzray.models.conditioning import Precision
from boltzray.models.flow import Flow
from boltzray.models.hub import DEFAULT_CHECKPOINT
from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD, check_forcefield, forcefield_of
from boltzray.molecules.storage import DamagedFile, set_aside
from boltzray.samplers import HMC, SMCConfig, SNISResult, snis
from boltzray.samplers.com import CenterOfMass
from boltzray.samplers.importance_weights import Treatment

from ..runtime.cluster import ClusterConfig
from ..runtime.config import results_home
from ..runtime.progress import say
from ..runtime.run_folder import ATOM_ORDER, RunFolder
from ..runtime.tracking import Tracker, warn_on_error
from ..runtime.workers import Lost, Workers
from .atom_order import OrderedPeptide
from .energy_actors import EnergyConfig, engine_note
from .flow_actors import ENERGIES_A_PARTICLE, ActorsConfig, flow_workers
from .peptide_source import PeptideSource
from .population import Proposals
from .sample_files import add_trajectory, check_samples, finished, write_samples
from .smc import Positions, SMCRun, run_smc_on_workers
from .target import Target, check_supported, trained_at_k

INCIDENTAL = ("cluster.", "actors.", "out", "data_dir", "checkpoint_s", "trajectory")  # do not change the results
MAX_LOSSES = 20  # of nodes; each costs what was done since the last checkpoint


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Options of sampling, whichever the peptide.

    `samples` are drawn from the flow; `sampler=smc` anneals `smc_particles` of them, chosen by weight where there are
    twice as many or more, with a checkpoint every `checkpoint_s` seconds. At another temperature than the flow was
    trained at, its latents are drawn from a wider or narrower normal. `trajectory`: format of the resampled ensemble;
    xtc is for looking, because it rounds to 0.001 nm, which moves energies by about 1 kT; trr keeps them, and dcd to
    1e-4 kT. `data_dir`: where to look for structures and
    reference MD.
    """

    checkpoint: str = DEFAULT_CHECKPOINT
    sampler: Literal["snis", "smc"] = "smc"
    samples: int = 2048
    smc_particles: int = 512
    draw_precision: Precision = "float32"
    smc_precision: Precision = "float32"
    temperature_k: float = 310.0
    forcefield: str = DEFAULT_FORCEFIELD
    com: CenterOfMass = "gaussian"
    weights: Treatment = "psis"
    seed: int = 0
    checkpoint_s: float = 30.0
    trajectory: Literal["xtc", "trr", "dcd", "none"] = "xtc"
    data_dir: str = "data"
    smc: SMCConfig = HMC
    energy: EnergyConfig = field(default_factory=EnergyConfig)
    actors: ActorsConfig = field(default_factory=ActorsConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise ValueError(f"samples={self.samples}: at least 2 are needed for a weight to mean anything")
        if self.sampler == "smc" and not 2 <= self.smc_particles <= self.samples:
            raise ValueError(f"smc_particles={self.smc_particles} must be from 2 to samples={self.samples}")
        check_forcefield(self.forcefield)
        if not 0.0 < self.temperature_k < float("inf"):
            raise ValueError(f"temperature_k={self.temperature_k} must be positive, in kelvin")

    @property
    def energies(self) -> int:
        """About how many energies it takes."""
        return self.samples + (ENERGIES_A_PARTICLE * self.smc_particles if self.sampler == "smc" else 0)


@dataclass(frozen=True, kw_only=True)
class SampleJob(SamplingOptions):
    """Sample weighted conformations of one peptide, named by `sequence`, or by `pdb` if it has a file, with a flow."""

    sequence: str = ""
    pdb: str | None = None
    out: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sequence", self.source.sequence)
        super().__post_init__()

    @property
    def source(self) -> PeptideSource:
        """The peptide to sample."""
        return PeptideSource(sequence=self.sequence, pdb=self.pdb, data_dir=self.data_dir)

    @property
    def folder(self) -> str:
        """`out`, or a folder named after the peptide."""
        return self.out or f"outputs/sample/{self.source.name}"


def sample(job: SampleJob) -> Path:
    """Run `job`; returns the folder with its results."""
    checkpoint = models.locate(job.checkpoint, results_home())
    flow = models.checkpoint.outline(checkpoint)
    check_supported(flow, job.com, smc=job.sampler == "smc")
    ordered = OrderedPeptide.of(job.source.load(job.forcefield), flow)
    weights = models.checkpoint.fingerprint(checkpoint)
    facts = {"weights_sha256": weights, ATOM_ORDER: "iupac"}
    with RunFolder.open(job.folder, "sample", job, INCIDENTAL, {"pdb": job.source.file}, **facts) as folder:
        return _sample_into(folder, job, checkpoint, ordered, flow)


def _sample_into(folder: RunFolder, job: SampleJob, checkpoint: Path, ordered: OrderedPeptide, flow: Flow) -> Path:
    out, peptide = folder.path, ordered.peptide
    if finished(out) and _is_whole(out):
        say(f"already sampled: {out}")
        add_trajectory(out, job.seed, job.trajectory)
        return out
    target = Target(
        pdb=peptide.to_pdb(),
        temperature_k=job.temperature_k,
        com=job.com,
        trained_at_k=trained_at_k(checkpoint),
        draw_precision=job.draw_precision,
        smc_precision=job.smc_precision,
        forcefield=forcefield_of(peptide, job.forcefield),
    )
    with folder.track() as tracker:
        if warning := models.checkpoint.length_warning(checkpoint, peptide.sequence):
            say(f"note: {warning}")
        if job.sequence and flow.atom_order == "file":
            say(
                f"note: {checkpoint.name} knows its atoms by their place in the file that it was trained on: give pdb= "
                f"that file, unless its order is the one in which {job.sequence} is built"
            )
        for note in ordered.given.notes:
            say(f"note: {note}")
        if stands_in := engine_note(peptide, job.energy.engine):
            say(f"note: {stands_in}")
        say(f"sampling {peptide.sequence} ({peptide.n_atoms} atoms)")
        on = (job.actors, job.energy, job.cluster)
        with flow_workers(checkpoint, target, *on, energies=job.energies) as workers:
            sets = _sample_despite_losses(job, out / "run", workers, target, flow.scale_nm, tracker)
        write_samples(out, ordered.given, ordered.as_given(sets), job.seed, job.trajectory)
    shutil.rmtree(out / "run")
    return out


def _is_whole(out: Path) -> bool:
    """Return True if the files of a finished run are what was written; else say what is not, and it is made again."""
    try:
        check_samples(out)
    except (DamagedFile, FileNotFoundError) as error:
        say(f"note: {error}: sampling again")
        set_aside(out / "sampling.json")
        return False
    return True


def _sample_despite_losses(
    job: SampleJob, folder: Path, workers: Workers, target: Target, scale_nm: float, tracker: Tracker
) -> list[Ensemble]:
    """Make all ensembles; when a node is lost, with what it held, go on from what is in `folder`."""
    folder.mkdir(exist_ok=True)
    for losses in range(MAX_LOSSES + 1):
        try:
            return list(_sample(job, folder, workers, target, scale_nm, tracker))
        except Lost as error:
            if losses == MAX_LOSSES:
                raise RuntimeError(f"conformations were lost {MAX_LOSSES} times with their nodes: {error}") from error
            say("a node was lost, and conformations with it: going back to the last checkpoint")
    raise AssertionError


def _sample(
    job: SampleJob, folder: Path, workers: Workers, target: Target, scale_nm: float, tracker: Tracker
) -> Iterator[Ensemble]:
    """SNIS of all proposals; then, if asked for, SMC from the first of them."""
    proposals = Proposals.sample(workers, job.samples, job.smc.block_size, job.seed, folder)
    result = snis(None, proposals.log_q, proposals.log_p, job.weights)
    diagnostics = snis_diagnostics(result) | proposals.diagnostics | {"seconds": proposals.seconds}
    with warn_on_error("logging to MLflow"):
        tracker.log({f"snis_{k}": v for k, v in diagnostics.items()})
    k_hat = "" if result.k_hat is None else f", k̂ {result.k_hat:.2f}"
    say(f"weighted: ESS {100 * result.ess:.3g} % of {result.n} draws{k_hat}")
    yield Ensemble(
        name="SNIS",
        chunks=Positions(proposals.paths, scale_nm),
        log_weights=result.log_w.numpy(),
        energy_kT=proposals.energy,
        log_q=proposals.log_q,
        diagnostics=diagnostics,
    )
    if job.sampler == "smc":
        smc = SMCRun(config=job.smc, n=job.smc_particles, seed=job.seed, folder=folder, checkpoint_s=job.checkpoint_s)
        yield run_smc_on_workers(smc, proposals, workers, target, scale_nm, tracker)


def snis_diagnostics(result: SNISResult) -> dict[str, float]:
    """Scalars of an SNIS result, for tables and MLflow."""
    skip = ("x", "log_w")
    return {k: float(v) for k, v in result._asdict().items() if k not in skip and v is not None}
