"""Any molecule: from its structure, its energy and perhaps a trajectory to a weighted ensemble, in one command."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD, FORCEFIELDS
from boltzray.molecules.molecule import Molecule
from boltzray.molecules.own_molecule import file_name, parameter_files, read_molecule
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.storage import replacing
from boltzray.molecules.trajectories import frame_paths

from .data.prepare import PrepareJob, prepare
from .evaluation.evaluate import evaluate_folder, print_verdict
from .runtime.cluster import ClusterConfig, cluster
from .runtime.config import data_folder, parse, results_home
from .runtime.progress import duration, progress, say
from .runtime.run_folder import RunFolder
from .runtime.tracking import Tracker
from .sampling.sample import SampleJob, sample
from .simulation.simulate import SimulateJob, simulate
from .training.train import TrainJob, train

MOLECULE = "molecule.pdb"


@dataclass(frozen=True, kw_only=True)
class FitJob:
    """Fit a flow to one molecule and sample it.

    `pdb`: its structure, all atoms; `system`: a serialised OpenMM System, or `forcefield`: parameter files, those of
    the published data unless given. `frames`: trajectories of it, of which the last `hold_out` of each is kept to
    compare with; without any, MD is run. `simulate`, `train`, `sample`: further keys of these jobs.
    Units: K.
    """

    pdb: str
    system: str = ""
    forcefield: tuple[str, ...] = ()
    frames: str | tuple[str, ...] = ""
    name: str = ""
    out: str = ""
    temperature_k: float = 310.0
    hold_out: float = 0.2
    seed: int = 0
    simulate: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    sample: dict[str, Any] = field(default_factory=dict)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        if not self.pdb:
            raise ValueError("give pdb=, a structure with all atoms, and its energy: system= or forcefield=")
        if self.system and self.forcefield:
            raise ValueError("system= and forcefield= both name the energy: give one of them")
        if not (self.system or self.forcefield):
            object.__setattr__(self, "forcefield", FORCEFIELDS[DEFAULT_FORCEFIELD].files)
        if not 0.0 < self.temperature_k < float("inf"):
            raise ValueError(f"temperature_k={self.temperature_k} must be positive, in kelvin")

    @property
    def label(self) -> str:
        """Name of the molecule."""
        return file_name(self.name or Path(self.pdb).name.split(".")[0])

    @property
    def folder(self) -> str:
        """`out`, or a folder named after the molecule."""
        return self.out or f"outputs/fit/{self.label}"


def fit(job: FitJob) -> Path:
    """Run or continue `job`; returns its folder. Each part is resumed, or skipped when it is done."""
    started = time.monotonic()
    molecule = _molecule(job)
    out = data_folder(job.folder)
    if job.frames:
        frame_paths(job.frames, results_home())  # what is not there is said before anything is computed
    with cluster(job.cluster, dashboard=True):  # which training needs
        say(f"\n1/4  {'frames' if job.frames else 'molecular dynamics'}")
        data = _data(job, out, molecule)
        say("\n2/4  training")
        train(_train_job(job, out, molecule))
        say("\n3/4  sampling")
        samples = sample(_sample_job(job, out))
    say("\n4/4  report")
    run = Tracker.find(out / "train")
    training = [{"step": s, "loss": loss} for s, loss in run.history("loss")] if run else None
    print_verdict(samples, evaluate_folder(samples, data, seed=job.seed, training=training))
    _print_paths(out, time.monotonic() - started)
    return out


def _molecule(job: FitJob) -> Molecule:
    """The molecule, from the folder or made there."""
    home = results_home()
    pdb = home / Path(job.pdb).expanduser()
    system = home / Path(job.system).expanduser() if job.system else None
    own = [Path(name) for name in parameter_files(job.forcefield, home)]
    files = {"pdb": pdb, "system": system} | {f"forcefield.{i}": path for i, path in enumerate(own)}
    deciding = _Sources(pdb=job.pdb, system=job.system, forcefield=job.forcefield, name=job.label)
    with RunFolder.open(job.folder, "fit", deciding, files=files) as folder:
        path = folder.path / MOLECULE
        if not path.exists():
            say(f"reading {job.label}: its usual bonds and angles from short dynamics")
            with progress("short dynamics", 1.0) as update:
                molecule = read_molecule(
                    pdb,
                    system=system,
                    forcefield=parameter_files(job.forcefield, home),
                    name=job.label,
                    temperature_k=job.temperature_k,
                    seed=job.seed,
                    tell=lambda share: update(share, ""),
                )
            with replacing(path) as temporary:
                temporary.write_text(molecule.to_pdb())
        found = Peptide.from_pdb(path)
    assert isinstance(found, Molecule)
    turning = int(found.tables["rotatable"].sum())
    say(f"{found.sequence}: {found.n_atoms} atoms, {turning} torsions that turn, energy {found.own_forcefield}")
    return found


@dataclass(frozen=True, kw_only=True)
class _Sources:
    """Files and name that a molecule is made of."""

    pdb: str
    system: str
    forcefield: tuple[str, ...]
    name: str


def _data(job: FitJob, out: Path, molecule: Molecule) -> Path:
    """The data folder, filled from the user's frames or by dynamics."""
    folder, path = out / "data", out / MOLECULE
    if not job.frames:
        md = job.simulate.get("md", {}) | {"temperature_k": job.temperature_k}
        values = job.simulate | {"pdb": str(path), "out": str(folder), "seed": job.seed, "md": md}
        return simulate(parse(SimulateJob, values))
    return prepare(
        PrepareJob(
            pdb=str(path),
            frames=job.frames,
            hold_out=job.hold_out,
            temperature_k=job.temperature_k,
            forcefield=molecule.own_forcefield or "",
            out=str(folder),
        )
    )


def _train_job(job: FitJob, out: Path, molecule: Molecule) -> TrainJob:
    model = job.train.get("model", {}) | {"system": molecule.sequence, "system_atoms": molecule.n_atoms}
    data = job.train.get("data", {}) | {"path": str(out / "data"), "sequences": [molecule.sequence]}
    steps = job.train.get("train", {}) | {"seed": job.seed}
    return parse(TrainJob, job.train | {"out": str(out / "train"), "model": model, "data": data, "train": steps})


def _sample_job(job: FitJob, out: Path) -> SampleJob:
    values = {
        "checkpoint": str(out / "train" / "checkpoint"),
        "out": str(out / "samples"),
        "data_dir": str(out / "data"),
    }
    values |= {"sequence": "", "pdb": str(out / MOLECULE)}
    return parse(SampleJob, job.sample | values | {"temperature_k": job.temperature_k, "seed": job.seed})


def _print_paths(out: Path, seconds: float) -> None:
    rows = [
        ("report", out / "samples" / "report.html"),
        ("ensemble", out / "samples" / "ensemble.xtc"),
        ("weights", out / "samples" / "samples.npz"),
        ("flow", out / "train" / "checkpoint"),
        ("molecule", out / MOLECULE),
    ]
    say(f"\ndone in {duration(seconds)}")
    for name, path in rows:
        say(f"  {name:<9} {path}")
    say(f"  again     python jobs/sample.py pdb={out / MOLECULE} checkpoint={out / 'train' / 'checkpoint'}")
