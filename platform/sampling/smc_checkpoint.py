"""Checkpoints of SMC: the driver's state and the particles, in a folder that is renamed whole.

out/run/smc-000012/part-00000.npz …, state.npz, state.json
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from boltzray.molecules.storage import DamagedFile, read_json, set_aside
from boltzray.samplers import SMCState, SMCStep

from ..runtime.config import write_json
from ..runtime.progress import say
from .block_files import load_part, save_part


class SMCCheckpoint(NamedTuple):
    """SMC after some step: the driver's state, the steps that led there, the files of the population."""

    state: SMCState
    steps: list[SMCStep]
    seconds: float
    paths: list[Path]


class Saves(Protocol):
    """A population that can write itself in block files below a folder."""

    def save(self, folder: Path) -> None: ...


def save_checkpoint(folder: Path, population: Saves, state: SMCState, steps: Sequence[SMCStep], seconds: float) -> None:
    """Write a checkpoint whole, or not at all; the ones before it are deleted."""
    temporary = folder / f".smc.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    population.save(temporary)
    save_part(temporary / "state.npz", log_w=state.log_w, roots=state.eve)
    scalars = {name: value for name, value in state._asdict().items() if name not in ("log_w", "eve")}
    description = {"state": scalars, "steps": [step._asdict() for step in steps], "seconds": seconds}
    write_json(temporary / "state.json", description)
    final = folder / f"smc-{state.step:06d}"
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    # Only now: a process that dies in between leaves two, of which the later one is read.
    for older in folder.glob("smc-*"):
        if older != final:
            shutil.rmtree(older)


def last_checkpoint(folder: Path) -> SMCCheckpoint | None:
    """Read the latest sound checkpoint below `folder`, if there is one; a damaged one is set aside."""
    for found in sorted(folder.glob("smc-*"), reverse=True):
        try:
            return _read(found)
        except (DamagedFile, FileNotFoundError) as error:
            say(f"note: {error}: SMC goes back to what was before (kept as {set_aside(found).name})")
    return None


def _read(folder: Path) -> SMCCheckpoint:
    description = read_json(folder / "state.json")
    arrays = load_part(folder / "state.npz", "log_w", "roots")
    state = SMCState(**description["state"], log_w=arrays["log_w"], eve=arrays["roots"])
    steps = [SMCStep(**step) for step in description["steps"]]
    paths = sorted(folder.glob("part-*.npz"))
    rows = sum(len(load_part(path, "log_q")["log_q"]) for path in paths)
    if rows != len(state.log_w):
        raise DamagedFile(f"{folder} is damaged: it has {rows} particles, not {len(state.log_w)}")
    return SMCCheckpoint(state, steps, description["seconds"], paths)
