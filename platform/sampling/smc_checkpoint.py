"""Blocks of conformations on disk, some thousand rows a file: what a run that was stopped goes on from.

out/run/draws-00000.npz …        proposals with their scalars
out/run/smc-000012/part-00000.npz …, state.npz, state.json
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from boltzray.samplers import SMCState, SMCStep

PART_ROWS = 4096  # rows that a stopped run may have to draw again


def blocks_per_part(block_size: int) -> int:
    return max(1, PART_ROWS // block_size)


def part_path(folder: Path, index: int, name: str = "part") -> Path:
    return folder / f"{name}-{index:05d}.npz"


def save_part(path: Path, **arrays: Any) -> None:
    """Write arrays to a temporary name, then rename."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    temporary.replace(path)


def load_part(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The arrays `names` of a part; the others are not read."""
    with np.load(path) as arrays:
        return {name: arrays[name] for name in names}


class SMCCheckpoint(NamedTuple):
    """SMC after some step: the driver's state, the steps that led there, the files of the population."""

    state: SMCState
    steps: list[SMCStep]
    seconds: float
    paths: list[Path]


class Saves(Protocol):
    """What can write itself in parts below a folder."""

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
    for older in folder.glob("smc-*"):
        if older != final:
            shutil.rmtree(older)


def last_checkpoint(folder: Path) -> SMCCheckpoint | None:
    """The latest checkpoint below `folder`, if there is one."""
    found = sorted(folder.glob("smc-*"))
    if not found:
        return None
    description = json.loads((found[-1] / "state.json").read_text())
    arrays = load_part(found[-1] / "state.npz", "log_w", "roots")
    state = SMCState(**description["state"], log_w=arrays["log_w"], eve=arrays["roots"])
    steps = [SMCStep(**step) for step in description["steps"]]
    return SMCCheckpoint(state, steps, description["seconds"], sorted(found[-1].glob("part-*.npz")))
