"""Outcomes of trials, read from their folders: status, rounds, the best; tables, and the command for one again."""

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from boltzray.molecules.storage import read_json

from ..finetuning.config import FinetuneJob
from ..finetuning.round_record import RoundRecord, read_records
from ..runtime.config import display_path, write_json
from ..runtime.tables import write_table
from .config import MODES, Metric, Trial

Status = Literal["waiting", "begun", "done", "stopped", "diverged", "failed"]
ENDED = ("done", "stopped", "diverged")  # nothing is left to do; what failed is tried again
STATE = "state.json"
LAST = ("ess", "ess_error", "k_hat", "energy_w2", "seconds")  # of the last round, in tables


@dataclass(frozen=True)
class Outcome:
    """State of a trial: `rounds` as `finetune` reports them, the status and, of a bad one, the reason."""

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
    """Metric of one round; NaN if unknown, or of draws at another temperature, which say nothing about this one."""
    value = record.judged[0] if metric == "ess" else record.energy_w2
    here = record.on_target and record.draw_k == job.temperature_k
    return float(value) if here and value is not None else math.nan


def scheduler_score(record: RoundRecord, job: FinetuneJob, metric: Metric) -> float:
    """Metric of one round for the scheduler: NaN also before any learning, where settings make no difference."""
    return score(record, job, metric) if record.round else math.nan


def outcome(trial: Trial) -> Outcome:
    """Read the folder of a trial."""
    records, state = read_records(trial.folder), trial.folder / STATE
    if state.exists():
        return Outcome(trial, **({"rounds": records} | read_json(state)))
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
            **(o.rounds[-1].validation_means if o.rounds else {}),
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
        {k: v for k, v in row.items() if k not in (*LAST, "energies")} | record.numbers
        for row, o in zip(trial_rows, outcomes, strict=True)
        for record in o.rounds
    ]
    return [write_table(path, content) for path, content in zip(paths, (trial_rows, per_round), strict=True)]


# --- a trial on its own -------------------------------------------------------------------------


def write_configuration(trial: Trial) -> None:
    """Write `trial.yaml` into the folder of a trial: its job, as a configuration of its own for Hydra."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    # JSON is YAML, and leaves no doubt of what is a string. `_hydra` lies in conf/, where jobs look first.
    write_json(trial.folder / "trial.yaml", {"defaults": ["_hydra", "_self_"], **asdict(trial.job)})


def command(trial: Trial, out: Path) -> str:
    """Return the line that makes the flow of a trial again, on all of the machine's cores."""
    target = display_path(out / "best")
    if not re.fullmatch(r"[\w./:@~+-]+", target):  # what Hydra reads without quotes
        target = "'" + target.replace("'", "\\'") + "'"
    words = ["python", "jobs/finetune.py", "--config-dir", display_path(trial.folder), "--config-name", "trial"]
    return shlex.join([*words, "in_process=false", f"out={target}"])
