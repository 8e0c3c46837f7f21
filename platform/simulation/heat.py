"""The temperature at which bonds of simulated frames vibrate: a flow learns it with them, and weights tell."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from boltzray.molecules.frame_statistics import bond_temperature_k
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.runs import MDConfig
from boltzray.molecules.storage import read_json

from ..data.sources import Run

PEPTIDES, RUNS, FRAMES = 8, 64, 16  # that are looked at: runs of a peptide, frames of a run
FEWEST_RUNS, FEWEST_FRAMES = 8, 20  # in all, and of a peptide
HEAT = 0.2  # of the temperature, further off than which it is told: by eight short runs it is known to 0.1


def heat(out: Path, config: MDConfig, pdbs: Mapping[str, str], runs: Mapping[str, Run]) -> str | None:
    """Warning that frames to train on are not at their temperature, or None.

    By some of the peptides, of their runs under these conditions, and of the frames of these.

    `pdbs`: texts of PDB files by sequence; `runs` below `out`/md, by name.
    """
    sequences, found, seen = list(pdbs), [], 0
    for sequence in (sequences[i] for i in evenly(len(sequences), PEPTIDES)):
        folders = [out / "md" / name for name, run in runs.items() if run == (sequence, "train", None)]
        parts = []
        for folder in (folders[i] for i in evenly(len(folders), RUNS)):
            settings = read_json(folder / "run.json")["settings"]
            if (settings["temperature_k"], settings["forcefield"]) == (config.temperature_k, config.forcefield):
                frames = Run(sequence, "train").frames(folder)
                parts.append(frames[evenly(len(frames), FRAMES)])
        if sum(map(len, parts)) >= FEWEST_FRAMES:
            seen += len(parts)
            peptide = Peptide.from_pdb(pdbs[sequence])
            found.append(bond_temperature_k(np.concatenate(parts), peptide, config.forcefield))
    measured = float(np.mean(found)) if seen >= FEWEST_RUNS else np.nan
    if not abs(measured / config.temperature_k - 1) > HEAT:  # nor NaN
        return None
    return (
        f"bonds vibrate as at {measured:.0f} K, and md.temperature_k is {config.temperature_k:g} K: frames were taken "
        "before the start was forgotten. Simulate again under another out= (warm-ups of earlier versions kept the "
        "heat), or with a longer md.warmup_ps"
    )


def evenly(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, evenly spaced."""
    chosen: list[int] = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()
    return chosen
