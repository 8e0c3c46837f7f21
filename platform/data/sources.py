"""The frames of a data folder by where they came from, so that adding to it never loses what is there.

runs.json             simulated runs below md/, by directory: see `Run`
sources.json          files of frames that `prepare` took in: temperature, force field, a `Source` of each
prepared/NAME.npy     their frames (T, N, 3) in order of time, float32, nm; the last `held_out` are kept from training

Shards are written from all of these, whichever job was last.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from boltzray.molecules.columns import read_prepared
from boltzray.molecules.convergence import Drift
from boltzray.molecules.observables import fit_tica, tica_lag
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.reference_record import Ladder, ReferenceRecord, StatesFrom, record_of, record_path
from boltzray.molecules.references import save_reference
from boltzray.molecules.replica_exchange import load_rung
from boltzray.molecules.runs import load_trajectory
from boltzray.molecules.sequences import n_residues
from boltzray.molecules.shards import read_manifest, write_shards
from boltzray.molecules.stereo import atom_names
from boltzray.molecules.storage import read_json

from ..runtime.config import write_json
from .catalogue import RUNS, SOURCES
from .run_drift import energy_drift

PREPARED_FRAMES = "prepared"
HELD_OUT = "held out"
REFERENCES = "trajectories_subsampled"

Frames = NDArray[np.float32]


class Run(NamedTuple):
    """A simulated run below md/: its peptide, whether it is trained on or held out, and of a ladder the rung taken."""

    sequence: str
    role: str
    rung: int | None = None

    @property
    def is_ladder(self) -> bool:
        return self.rung is not None

    def frames(self, directory: Path) -> Frames:
        """All frames, in order of time; of a ladder those of one rung."""
        return load_trajectory(directory) if self.rung is None else load_rung(directory, self.rung)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of frames that was taken in: `frames` of `sequence`, the last `held_out` of them not to train on."""

    sequence: str
    file: str
    frames: int
    held_out: int
    left_out: dict[str, int]
    spacing_ps: float | None


@dataclass(frozen=True, kw_only=True)
class SourceTable:
    """Sources of a folder by name (sequence and a hash of the frames), and what they were simulated at and in."""

    temperature_k: float
    forcefield: str
    sources: dict[str, Source] = field(default_factory=dict)


def read_sources(folder: Path) -> SourceTable | None:
    """Return what `prepare` took in, None where it did not."""
    path = folder / SOURCES
    if not path.exists():
        return None
    found = read_json(path)
    sources = {name: Source(**facts) for name, facts in found["sources"].items()}
    return SourceTable(temperature_k=found["temperature_k"], forcefield=found["forcefield"], sources=sources)


def write_sources(folder: Path, table: SourceTable) -> None:
    """Record the sources of a folder, all at once."""
    write_json(folder / SOURCES, asdict(table))


def check_addable(folder: Path) -> None:
    """Check that all frames in a folder have a source that is known. Raises: ValueError if some came otherwise."""
    if read_prepared(folder):
        raise ValueError(f"{folder} holds a columnar copy of other frames: give another out=")
    if read_manifest(folder) and not (folder / SOURCES).exists() and not (folder / RUNS).exists():
        raise ValueError(f"{folder} holds shards of which nothing says what they were made of: give another out=")


def folder_forcefield(folder: Path) -> str | None:
    """Force field of a folder's frames, None where it has none. Raises: ValueError when they differ."""
    found = {read_json(path)["settings"]["forcefield"] for path in folder.glob("md/*/run.json")}
    if table := read_sources(folder):
        found.add(table.forcefield)
    if len(found) > 1:
        raise ValueError(f"{folder} holds frames of several force fields ({', '.join(sorted(found))})")
    return found.pop() if found else None


def training_frames(folder: Path) -> dict[str, list[Frames]]:
    """All trajectories to train on, by peptide: simulated ones first. Those of files stay there, mapped."""
    found: dict[str, list[Frames]] = {}
    for directory, run in sorted(read_runs(folder).items()):
        if run.role == "train":
            found.setdefault(run.sequence, []).append(run.frames(folder / "md" / directory))
    for name, source in _sources(folder).items():
        frames = _mapped(folder, name)
        found.setdefault(source.sequence, []).append(frames[: source.frames - source.held_out])
    return found


def held_out_frames(folder: Path, sequence: str) -> list[Frames]:
    """Trajectories of a peptide that `prepare` held out."""
    return [
        np.array(_mapped(folder, name)[source.frames - source.held_out :])
        for name, source in _sources(folder).items()
        if source.sequence == sequence and source.held_out
    ]


def write_training(folder: Path, seed: int, frames_per_shard: int) -> None:
    """Write the shards of all sources."""
    if training := training_frames(folder):
        write_shards(folder, training, seed, frames_per_shard)


def held_out_ns(folder: Path, sequence: str) -> list[float]:
    """Simulated time of each of these, NaN where a file does not say it."""
    held = [s for s in _sources(folder).values() if s.sequence == sequence and s.held_out]
    return [s.held_out * (s.spacing_ps or math.nan) / 1000 for s in held]


def write_reference(
    folder: Path,
    peptide: Peptide,
    split: str,
    trajectories: list[Frames],
    *,
    forcefield: str,
    temperature_k: float,
    engine: str,
    time_ns: Sequence[float],
    energy_evaluations: int | None = None,
    log_weights: NDArray[np.float64] | None = None,
    states_from: StatesFrom | None = None,
    tica_runs: list[Frames] | None = None,
    ladder: Ladder | None = None,
    ladder_drift: Drift | None = None,
) -> ReferenceRecord:
    """Write the reference trajectory of a peptide, of independent runs, and its record, which it returns.

    `time_ns` of each run: see `molecules.references.save_reference` and `molecules.reference_record`. Of a ladder the
    frames written are some of all: `states_from` has all, `tica_runs` what TICA is fitted to, `ladder_drift` is that of
    their energies.

    Shape: trajectories (T, N, 3) each, log_weights of all of them. Units: nm.
    """
    path, positions = reference_path(folder, peptide, split), np.concatenate(trajectories)
    conditions: dict[str, Any] = {"forcefield": forcefield, "temperature_k": temperature_k, "engine": engine}
    lengths, continuous = tuple(map(len, trajectories)), tica_runs or trajectories
    save_reference(
        path,
        positions,
        fit_tica(continuous, peptide.topology, lag=tica_lag(min(map(len, continuous)))),
        atom_names(peptide),
        **conditions,
        time_ns=sum(time_ns),
        log_weights=log_weights,
        run_lengths=lengths,
    )
    record = record_of(
        path,
        peptide,
        positions,
        **conditions,
        time_ns=time_ns,
        log_weights=log_weights,
        run_lengths=lengths,
        states_from=states_from,
        energy_evaluations=energy_evaluations,
        ladder=ladder,
        energy_drift=ladder_drift if ladder else energy_drift(peptide, trajectories, temperature_k, forcefield),
    )
    record.write(path)
    return record


def refresh_reference(folder: Path, peptide: Peptide, temperature_k: float, forcefield: str) -> None:
    """Write a peptide's validation reference anew, of all that is held out of it; remove it if that is nothing.

    One of ladders stays as it is: frames without weights have no place among theirs.
    """
    sequence = peptide.sequence
    of_test = (folder / "pdbs" / "test" / f"{sequence}.pdb").exists()  # its runs are the reference of that split
    found = {} if of_test else read_runs(folder)
    runs = {name: run for name, run in sorted(found.items()) if run[:2] == (sequence, HELD_OUT)}
    if any(run.rung is not None for run in runs.values()):
        return
    trajectories = [run.frames(folder / "md" / name) for name, run in runs.items()]
    settings = [read_json(folder / "md" / name / "run.json")["settings"] for name in runs]
    times_ns = [len(x) * run["interval_ps"] / 1000 for x, run in zip(trajectories, settings, strict=True)]
    trajectories += held_out_frames(folder, sequence)
    if trajectories:
        write_reference(
            folder,
            peptide,
            "val",
            trajectories,
            forcefield=forcefield,
            temperature_k=temperature_k,
            engine=", ".join(sorted({run["engine"] for run in settings})),
            time_ns=times_ns + held_out_ns(folder, sequence),
        )
    else:
        path = reference_path(folder, peptide, "val")
        path.unlink(missing_ok=True)
        record_path(path).unlink(missing_ok=True)


def reference_path(folder: Path, peptide: Peptide, split: str) -> Path:
    """Return where the public layout has a reference trajectory."""
    length = f"{n_residues(peptide.sequence)}AA"
    return folder / REFERENCES / split / length / f"{peptide.sequence}_subsampled.npz"


def _sources(folder: Path) -> dict[str, Source]:
    table = read_sources(folder)
    return table.sources if table else {}


def read_runs(folder: Path) -> dict[str, Run]:
    """The simulated runs of a folder, by directory below md/."""
    path = folder / RUNS
    return {name: Run(*run) for name, run in read_json(path).items()} if path.exists() else {}


def write_runs(folder: Path, runs: Mapping[str, Run]) -> None:
    """Record the runs of a folder, all at once."""
    write_json(folder / RUNS, {name: run if run.rung is not None else run[:2] for name, run in runs.items()})


def _mapped(folder: Path, name: str) -> Frames:
    """Frames of a source, in their file. Raises: ValueError when that is gone."""
    path = folder / PREPARED_FRAMES / f"{name}.npy"
    try:
        frames: Frames = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged, and {SOURCES} names it: prepare its frames again") from error
    return frames
