"""A folder of results: the settings that decide them, and the MLflow run that they belong to."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from boltzray.molecules import storage
from boltzray.molecules.storage import read_json

from . import folder_lock
from .config import flat, results_folder, write_json
from .tracking import Tracker, send_pending

ATOM_ORDER = "atom_order"  # of what a run has on disk until it is finished; runs of earlier versions do not say it
CONTENT = "_sha256"  # how the names of settings end that say what is in a file
# Settings that earlier versions did not know, by the value with which their runs go on.
SINCE: dict[str, Any] = {"smc_precision": "float32", "train.optimizer": "adamw", "optimizer.precision": "auto"}
SINCE |= {"sequences": [], "validation": [], "validation_draws": 1000, "peptides_a_step": 4}  # of finetuning
RECENT_NS = 2_000_000_000  # a file may change again without another time of change: file systems count in ticks
NAMED_BY = {"weights": "checkpoint"}  # `weights` itself is the treatment of importance weights


@dataclass(frozen=True)
class RunFolder:
    """The results folder of one job. `verb` names the job; `settings`: all that decides its results, by dotted key."""

    path: Path
    verb: str
    settings: dict[str, Any]

    @classmethod
    @contextmanager
    def open(
        cls,
        out: str,
        verb: str,
        job: Any,
        incidental: Sequence[str] = (),
        files: Mapping[str, Path | None] | None = None,
        **facts: Any,
    ) -> Iterator["RunFolder"]:
        """Create the folder, or check that what is there was made with the same settings; hold it during a `with`.

        `incidental`: how the keys of `job` begin that do not change its results. `files`: those that the job reads, by
        the key that names them; their content counts. `facts`: what else decides the results.
        Raises: ValueError naming the first setting that differs; FolderInUse.
        """
        with holding(results_folder(out)) as path:
            settings = deciding(job, incidental) | contents(files or {}) | facts
            check_or_record_settings(path, verb, settings)
            yield cls(path, verb, settings)

    def track(self, parent: Tracker | None = None) -> Tracker:
        """Open the folder's MLflow run, below `parent` if given."""
        return Tracker.open(self.verb, self.path, self.settings, parent, "" if parent else self._name)

    @property
    def _name(self) -> str:
        """Verb, peptide and flow, for lists of runs; empty where the settings do not say them."""
        pdb, flow = self.settings.get("pdb"), self.settings.get("checkpoint")
        peptide = self.settings.get("sequence") or (Path(str(pdb)).stem if pdb else "")
        if several := self.settings.get("sequences"):
            peptide = f"{len(several)} peptides"
        return f"{self.verb} {peptide} {Path(str(flow)).name}" if peptide and flow else ""


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


def contents(files: Mapping[str, Path | None]) -> dict[str, str]:
    """SHA-256 of the files that are there, as settings `KEY_sha256`."""
    return {f"{key}{CONTENT}": sha256(path) for key, path in files.items() if path and path.is_file()}


def sha256(path: Path) -> str:
    """SHA-256 of a file's content; this process reads it once, unless size or time of change differ (0.6 s a GB)."""
    stat = path.stat()
    if time.time_ns() - stat.st_mtime_ns < RECENT_NS:
        return storage.sha256(path)
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    return storage.sha256(path)


def check_or_record_settings(folder: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Record in `folder` the settings it is made with, or check that a run found there was made with the same.

    The content of a file (`KEY_sha256`) that is not recorded, as by older versions, is taken to be the same.
    Raises: ValueError naming the first setting that differs, or the file whose content does.
    """
    path = folder / f"{name}.json"
    settings = json.loads(json.dumps(settings, default=str))
    if path.exists():
        found = read_json(path)
        for key in sorted(settings.keys() | found.keys(), key=lambda key: (not key.endswith(CONTENT), key)):
            if found.get(key, SINCE.get(key)) == settings.get(key, SINCE.get(key)):
                continue
            if key == ATOM_ORDER and key not in found:
                if not (folder / "run").exists():  # finished, in the order of its own topology
                    continue
                raise ValueError(
                    f"{folder} holds a run that an earlier version began, under other names of atoms: "
                    "give another out=, or delete that folder"
                )
            if key.endswith(CONTENT):
                if key not in found:
                    continue
                named = key.removesuffix(CONTENT)
                file = settings.get(NAMED_BY.get(named, named)) or named
                raise ValueError(f"{folder} holds a run of another {file}: give another out=, or delete that folder")
            raise ValueError(
                f"{folder} holds a run with {key}={found.get(key)}, now {key}={settings.get(key)}: "
                "give another out=, or delete that folder"
            )
    write_json(path, settings)
