"""Checkpoints of SMC: the driver's state and the particles, in a folder that is renamed whole.

out/run/smc-000012/part-00000.npz …, state.npz, state.json
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from boltzray.samplers import SMCState, SMCStep

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
    (temporary / "state.json").write_text(json.dumps(description))
    final = folder / f"smc-{state.step:06d}"
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    # Only now: a process that dies in between leaves two, of which the later one is read.
    for older in folder.glob("smc-*"):
        if older != final:
            shutil.rmtree(older)


def last_checkpoint(folder: Path) -> SMCCheckpoint | None:
    """Read the latest checkpoint below `folder`, if there is one."""
    found = sorted(folder.glob("smc-*"))
    if not found:
        return None
    description = json.loads((found[-1] / "state.json").read_text())
    arrays = load_part(found[-1] / "state.npz", "log_w", "roots")
    state = SMCState(**description["state"], log_w=arrays["log_w"], eve=arrays["roots"])
    steps = [SMCStep(**step) for step in description["steps"]]
    return SMCCheckpoint(state, steps, description["seconds"], sorted(found[-1].glob("part-*.npz")))
