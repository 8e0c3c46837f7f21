"""A folder of results: the settings that decide them, and the MLflow run that they belong to."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import folder_lock
from .config import flat, results_folder, write_json
from .tracking import Tracker, send_pending


@dataclass(frozen=True)
class RunFolder:
    """The results folder of one job. `verb` names the job; `settings`: all that decides its results, by dotted key."""

    path: Path
    verb: str
    settings: dict[str, Any]

    @classmethod
    @contextmanager
    def open(cls, out: str, verb: str, job: Any, incidental: Sequence[str] = (), **facts: Any) -> Iterator["RunFolder"]:
        """Create the folder, or check that what is there was made with the same settings; hold it during a `with`.

        `incidental`: how the keys of `job` begin that do not change its results. `facts`: what else decides them.
        Raises: ValueError naming the first setting that differs; FolderInUse.
        """
        with holding(results_folder(out)) as path:
            settings = deciding(job, incidental) | facts
            check_or_record_settings(path, verb, settings)
            yield cls(path, verb, settings)

    def track(self, parent: Tracker | None = None) -> Tracker:
        """Open the folder's MLflow run, below `parent` if given."""
        return Tracker.open(self.verb, self.path, self.settings, parent)


@contextmanager
def holding(path: Path) -> Iterator[Path]:
    """Hold a results folder for this process during a `with`; MLflow first gets what earlier jobs there kept for it.

    Raises: FolderInUse when another job has it.
    """
    with folder_lock.holding(path):
        send_pending(path)
        yield path


def deciding(job: Any, incidental: Sequence[str]) -> dict[str, Any]:
    """Settings of a job that decide its results, by dotted key."""
    return {key: value for key, value in flat(job).items() if not key.startswith(tuple(incidental))}


def check_or_record_settings(folder: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Record in `folder` the settings it is made with, or check that a run found there was made with the same.

    Raises: ValueError naming the first setting that differs.
    """
    path = folder / f"{name}.json"
    settings = json.loads(json.dumps(settings, default=str))
    if path.exists():
        found = json.loads(path.read_text())
        for key in sorted(settings.keys() | found.keys()):
            if found.get(key) != settings.get(key):
                raise ValueError(
                    f"{folder} holds a run with {key}={found.get(key)}, now {key}={settings.get(key)}: "
                    "give another out=, or delete that folder"
                )
    write_json(path, settings)
