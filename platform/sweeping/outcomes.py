"""What a sweep has found: read from the folders of its trials, whoever wrote there and however that ended."""

import json
import math
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from boltzray.models.losses import OBJECTIVES, ObjectiveConfig

from ..finetuning.config import FinetuneJob
from ..finetuning.round_record import RoundRecord, read_records
from ..runtime.config import display_path, flat, write_json
from ..runtime.tables import write_table
from .config import MODES, Metric, SweepJob, Trial

Status = Literal["waiting", "begun", "done", "stopped", "diverged", "failed"]
ENDED = ("done", "stopped", "diverged")  # nothing is left to do; what failed is tried again
STATE = "state.json"
LAST = ("ess", "ess_error", "k_hat", "energy_w2", "seconds")  # of the last round, in tables
NOT_REPEATED = ("out", "in_process", "cluster", "actors", "objective", "checkpoint_s")


@dataclass(frozen=True)
class Outcome:
    """What is known of a trial: `rounds` as `finetune` tells them, the status and, of a bad one, why."""

    trial: Trial
    status: Status
    rounds: list[RoundRecord]
    message: str = ""

    @property
    def energies(self) -> int:
        """Spent so far."""
        return self.rounds[-1].energies if self.rounds else 0

    def score(self, metric: Metric) -> float:
        """The metric after the last draw; NaN of a trial that has not come so far."""
        return score(self.rounds[-1], self.trial.job, metric) if self.status == "done" and self.rounds else math.nan

    def curve(self, metric: Metric) -> list[tuple[int, float]]:
        """(energies, metric) of the rounds in which it can be compared."""
        points = ((r.energies, score(r, self.trial.job, metric)) for r in self.rounds)
        return [(energies, value) for energies, value in points if math.isfinite(value)]


def score(record: RoundRecord, job: FinetuneJob, metric: Metric) -> float:
    """The metric of one round; NaN if unknown, or of draws at another temperature, which say nothing about this one."""
    value = record.ess if metric == "ess" else record.energy_w2
    here = record.on_target and record.draw_k == job.temperature_k
    return float(value) if here and value is not None else math.nan


def judged(record: RoundRecord, job: FinetuneJob, metric: Metric) -> float:
    """What the scheduler is told of a round: its score, or NaN for the flow before any learning."""
    return score(record, job, metric) if record.round else math.nan


def outcome(trial: Trial) -> Outcome:
    """Read the folder of a trial."""
    records, state = read_records(trial.folder), trial.folder / STATE
    if state.exists():
        return Outcome(trial, **({"rounds": records} | json.loads(state.read_text())))
    return Outcome(trial, "begun" if records else "waiting", records)


def mark(trial: Trial, status: Status, message: str = "") -> None:
    """Record how a trial ended."""
    write_json(trial.folder / STATE, {"status": status, "message": message})


def best(outcomes: Sequence[Outcome], metric: Metric) -> Outcome | None:
    """The finished trial with the best metric, if any has finished with one."""
    finished = [o for o in outcomes if math.isfinite(o.score(metric))]
    sign = 1 if MODES[metric] == "max" else -1
    return max(finished, key=lambda o: sign * o.score(metric), default=None)


def best_of_each(outcomes: Sequence[Outcome], metric: Metric) -> dict[str, Outcome]:
    """The best trial of every objective, the best objective first.

    Of one without a finished trial, that which got furthest, after those with one.
    """
    sign = 1 if MODES[metric] == "max" else -1

    def rank(o: Outcome) -> tuple[bool, int, float]:
        curve = o.curve(metric)
        finished = math.isfinite(o.score(metric))
        return finished, 0 if finished else o.energies, sign * curve[-1][1] if curve else -math.inf

    found: dict[str, Outcome] = {}
    for o in sorted((o for o in outcomes if o.rounds), key=rank, reverse=True):
        found.setdefault(o.trial.objective, o)
    return found


# --- files --------------------------------------------------------------------------------------


def rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One flat row a trial: what it was, how it ended, its last numbers."""
    keys = list(dict.fromkeys(key for o in outcomes for key in o.trial.settings))
    return [
        {
            "trial": o.trial.number,
            "objective": o.trial.objective,
            **{key: o.trial.settings.get(key) for key in keys},
            "steps_a_round": o.trial.job.steps,
            "status": o.status,
            "energies": o.energies,
            **{key: getattr(o.rounds[-1], key) if o.rounds else None for key in LAST},
            "message": o.message,
            "folder": display_path(o.trial.folder),
        }
        for o in outcomes
    ]


def write_tables(out: Path, outcomes: Sequence[Outcome]) -> list[Path]:
    """`results.csv` with a row a trial, and `rounds.parquet` with a row a round, of the same columns and more."""
    trial_rows = rows(outcomes)
    paths = [out / "results.csv", out / "rounds.parquet"]
    per_round = [
        {k: v for k, v in row.items() if k not in (*LAST, "energies")} | record.to_json()
        for row, o in zip(trial_rows, outcomes, strict=True)
        for record in o.rounds
    ]
    return [write_table(path, content) for path, content in zip(paths, (trial_rows, per_round), strict=True)]


# --- the command that does a trial again --------------------------------------------------------


def command(trial: Trial, job: SweepJob, out: Path) -> str:
    """The line that makes the flow of this trial again, on all of the machine's cores."""
    done = trial.job
    values = flat({k: v for k, v in asdict(done).items() if k not in NOT_REPEATED})
    usual = flat(asdict(FinetuneJob(sequence=done.sequence, pdb=done.pdb)))
    always = ("sequence", "pdb", "checkpoint", "budget", "rounds", "steps", "batch", "optimizer.lr", "sampler")
    chosen = {k: v for k, v in values.items() if k in always or v != usual.get(k)}
    chosen = {k: v for k, v in chosen.items() if v not in ("", None) and not k.startswith("smc.")}
    # The default of smc= is a preset: all its keys are given, or what matters without SMC.
    chosen |= {k: v for k, v in values.items() if k.startswith("smc.") and done.sampler == "smc"}
    chosen |= {"smc.block_size": done.smc.block_size}
    for name in ("checkpoint", "pdb", "data_dir"):
        if chosen.get(name) and "://" not in chosen[name]:
            chosen[name] = display_path(Path(chosen[name]))
    words = [
        *_objective(trial),
        *(f"{k}={_word(v)}" for k, v in chosen.items()),
        f"out={_word(display_path(out / 'best'))}",
    ]
    return "python jobs/finetune.py " + " ".join(shlex.quote(word) for word in words)


def _objective(trial: Trial) -> Iterator[str]:
    """The objective as arguments: one that has a name by that, others as a mixture."""
    objective, usual = trial.job.objective, asdict(ObjectiveConfig())
    if objective.terms == {trial.objective: 1.0}:
        yield f"objective={trial.objective}"
    else:
        yield "objective=mixture"
        for name in OBJECTIVES:
            yield f"objective.terms.{name}={objective.terms.get(name, 0.0)}"
    yield f"objective.teacher={_word(objective.teacher)}"
    for key, value in asdict(objective).items():
        if key not in ("terms", "teacher") and value != usual[key]:
            yield f"++objective.{key}={_word(value)}"


def _word(value: Any) -> str:
    """A value as Hydra reads it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ",".join(_word(v) for v in value) + "]"
    text = str(value)
    if isinstance(value, str) and not re.fullmatch(r"[\w./:@~+-]+", text):
        escaped = text.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return text
