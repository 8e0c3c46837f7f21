"""Settings of a sweep, checked, and the trials that follow from them."""

import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from boltzray.models.losses import OBJECTIVES, ObjectiveConfig

from ..finetuning.config import FinetuneJob
from ..runtime.config import data_folder, parse, results_home
from ..runtime.mlflow_store import tracking_uri
from ..sampling.flow_actors import ActorsConfig
from .space import Settings, dimensions, sample_settings

Metric = Literal["ess", "energy_w2"]
MODES: dict[Metric, Literal["max", "min"]] = {"ess": "max", "energy_w2": "min"}

# Trials with these different could not be compared, or would write to one place.
FIXED = (
    *("sequence", "pdb", "sequences", "validation", "validation_draws", "checkpoint", "out", "budget"),
    *("temperature_k", "com", "data_dir", "in_process", "objective.terms", "objective.real_data", "cluster", "actors"),
)


@dataclass(frozen=True, kw_only=True)
class SweepJob(FinetuneJob):
    """Finetune one flow to one peptide, or to the same ones, in many ways with the same budget, and compare.

    The keys of `FinetuneJob` are those of every trial, but for what is swept: each of `objectives` (of them `only`
    those named) with each of `samples` settings drawn from `space`, the same for all objectives, spread over it;
    `samples=0`: all combinations of its lists. An objective that draws at each step takes as many steps as a round's
    energies allow.

    `metric` after equal energies (ESS of `validation`, if there are any) decides which trial is best, and for
    `scheduler=asha` which go on: from `grace` energies on (0: what is spent when a first round of learning is judged),
    at each `reduction`-fold of that, the best 1 / `reduction` do. `at_once`: trials at the same time, 0 for as many as
    the cluster holds. `in_process` trials take a core, and `trial_gpus` (null: one where there are GPUs; 0.25 puts four
    on one); others have the actors of `actors`, each. A trial that dies is begun again `max_failures` times, from its
    last step.

    `resume`: `auto` goes on with the sweep of `out`, or starts it; true only goes on; `never` only starts.
    """

    objectives: dict[str, ObjectiveConfig] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    space: dict[str, Any] = field(default_factory=dict)
    samples: int = 2
    metric: Metric = "ess"
    scheduler: Literal["asha", "none"] = "asha"
    grace: int = 0
    reduction: float = 2.0
    at_once: int = 0
    trial_gpus: float | None = None
    max_failures: int = 1
    in_process: bool = True
    resume: Literal["auto", "never"] | bool = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.only:
            if name not in self.objectives:
                raise ValueError(f"only={name}: choose of {', '.join(self.objectives)}")
        if self.sequences and self.metric != "ess":
            raise ValueError("metric=energy_w2 is of one peptide: give metric=ess, or sequence=")
        if not self.objectives:
            raise ValueError("give objectives, such as {self_improve: {terms: {self_improve: 1}}}")
        for key in dimensions(self.space):
            if any(key == fixed or key.startswith(f"{fixed}.") for fixed in FIXED):
                raise ValueError(f"space.{key}: trials with another {key} cannot be compared; give {key}= for all")
        if min(self.samples, self.grace, self.at_once, self.max_failures) < 0:
            raise ValueError("samples, grace, at_once and max_failures cannot be negative")
        if self.reduction <= 1:
            raise ValueError(f"reduction={self.reduction} must be above 1: 2 lets the better half go on")
        if self.trial_gpus is not None and self.trial_gpus < 0:
            raise ValueError(f"trial_gpus={self.trial_gpus} cannot be negative: 0 for none")

    @property
    def files(self) -> dict[str, Path | None]:
        frames = {name: o.real_data for name, o in self.objectives.items()}
        return super().files | {
            f"objectives.{name}.real_data": data_folder(path) for name, path in frames.items() if path
        }

    @property
    def folder(self) -> str:
        return self.out or f"outputs/sweep/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Trial of a sweep: an objective with settings, and the job that they make."""

    number: int
    objective: str
    settings: Settings
    job: FinetuneJob

    @property
    def name(self) -> str:
        return f"{self.number:03d}-{self.objective}"

    @property
    def folder(self) -> Path:
        return Path(self.job.out)


def trials(job: SweepJob, out: Path) -> list[Trial]:
    """Return all trials, the first settings of every objective first; each is checked.

    Raises: ValueError that names the trial.
    """
    found: list[Trial] = []
    for settings in sample_settings(dimensions(job.space), job.samples, job.seed):
        for name in job.only or job.objectives:
            meant = {k: v for k, v in settings.items() if _matters(k, job, job.objectives[name], settings)}
            if any(trial.objective == name and trial.settings == meant for trial in found):
                continue
            number = len(found)
            folder = out / "trials" / f"{number:03d}-{name}"
            try:
                trial_job = _job(job, name, meant, folder)
            except ValueError as error:
                described = " ".join(f"{k}={v}" for k, v in meant.items())
                raise ValueError(f"trial {number} ({name} {described}): {error}") from None
            found.append(Trial(number=number, objective=name, settings=meant, job=trial_job))
    return found


def _matters(key: str, job: SweepJob, objective: ObjectiveConfig, settings: Settings) -> bool:
    """Return True if a setting makes a difference to trials of this objective; others would be one trial twice."""
    if key.startswith("smc"):
        return settings.get("sampler", job.sampler) == "smc"
    name = key.removeprefix("objective.")
    users = [term for term, known in OBJECTIVES.items() if name in known.keys]
    return not users or any(term in objective.active for term in users)


def _job(job: SweepJob, objective: str, settings: Settings, out: Path) -> FinetuneJob:
    values = {f.name: getattr(job, f.name) for f in fields(FinetuneJob)}
    values = asdict(FinetuneJob(**values)) | {"objective": asdict(job.objectives[objective]), "out": str(out)}
    # A trial works somewhere else, maybe on another node.
    for name in ("pdb", "checkpoint"):
        if values[name] and "://" not in values[name]:
            values[name] = str(results_home() / Path(values[name]).expanduser())
    values["data_dir"] = str(data_folder(job.data_dir))
    if not job.in_process:  # part of the cluster, not all of it
        kept = ActorsConfig(
            flow_replicas=job.actors.flow_replicas or 1,
            energy_actors=(job.actors.energy_actors or 1) if job.energy.engine == "openmm" else 0,
        )
        values["actors"] = asdict(kept)
    for key, value in settings.items():
        _put(values, key, value)
    if job.objectives[objective].on_policy:
        trial = parse(FinetuneJob, values | {"steps": 1})
        values["steps"] = max(1, min(int(values["steps"]), trial.plan.steps_within(trial.batch)))
    return parse(FinetuneJob, values)


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; one that does not exist is made, and refused when the mapping is parsed."""
    *path, last = key.split(".")
    for part in path:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ValueError(f"space.{key}: {part} has no keys of its own")
        values = inner
    values[last] = value


def environment() -> dict[str, str]:
    """Return variables of the driver's environment that a trial needs, wherever it runs."""
    kept = {"BOLTZRAY_HOME": str(results_home()), "MLFLOW_TRACKING_URI": tracking_uri()}
    return kept | {k: os.environ[k] for k in ("HF_HOME", "HF_HUB_OFFLINE") if k in os.environ}
