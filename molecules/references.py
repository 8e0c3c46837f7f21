"""Reference trajectories, PDB files and the published split, looked up by sequence."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .constants import PUBLISHED_K
from .forcefield import DEFAULT_FORCEFIELD
from .independent_runs import checked_run_lengths, run_lengths_at
from .observables import Tica
from .sequences import n_residues
from .storage import BAD_ARCHIVE, replacing
from .subsample import checked_log_weights, normalised_weights, systematic_rows, weighted_subsample

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceTrajectory:
    """Reference MD, run after run, each in order of time, and what it is of.

    `atoms`: residue number, residue and name of each, such as `1 ALA CA`, in the order of the frames. Public files do
    not say them; such are taken to be in the force field and at the temperature of the published data. `engine` and
    `time_ns` of the dynamics: empty and NaN where unknown. `log_weights`: of frames that stand for more or less than
    their number, such as MBAR's of a ladder of temperatures; without them all count the same. `run_lengths`: frames of
    each independent run; empty for one run, or where unknown.

    Shape: positions_nm (T, N, 3); atoms N of them, or none; log_weights (T,), not normalised, -inf of a frame without.
    """

    positions_nm: NDArray[np.float32]
    tica: Tica | None = None
    atoms: tuple[str, ...] = ()
    forcefield: str = DEFAULT_FORCEFIELD
    temperature_k: float = PUBLISHED_K
    engine: str = ""
    time_ns: float = math.nan
    log_weights: NDArray[np.float64] | None = None
    run_lengths: tuple[int, ...] = ()

    @property
    def weights(self) -> NDArray[np.float64]:
        """Weights (T,) that sum to 1."""
        return normalised_weights(self.log_weights, len(self.positions_nm))

    def at(self, rows: NDArray[np.int64]) -> "ReferenceTrajectory":
        """The frames of some rows, ascending, with the weight that each of them has, and their runs."""
        log_w = self.log_weights if self.log_weights is None else self.log_weights[rows]
        lengths = run_lengths_at(rows, self.run_lengths)
        return replace(self, positions_nm=self.positions_nm[rows], log_weights=log_w, run_lengths=lengths)

    def subsampled(self, k: int) -> "ReferenceTrajectory":
        """At most k frames that stand for all by weight (`weighted_subsample`), evenly spaced where all are equal."""
        if self.log_weights is None:
            return self.at(weighted_subsample(np.ones(len(self.positions_nm)), k)[0])
        rows, weights = weighted_subsample(self.weights, k)
        with np.errstate(divide="ignore"):
            return replace(self.at(rows), log_weights=np.log(weights))

    def equally_weighted(self, k: int) -> "ReferenceTrajectory":
        """Frames in the same order that count the same, for what knows no weights.

        At most k of them, evenly spaced, where all do already; else k, a heavy one several times (`systematic_rows`).
        """
        if self.log_weights is None:
            return self.subsampled(k)
        return replace(self.at(systematic_rows(self.weights, k)), log_weights=None)

    @property
    def conditions(self) -> str:
        """Force field and temperature, for people."""
        return conditions(self.forcefield, self.temperature_k)

    def is_at(self, forcefield: str, temperature_k: float) -> bool:
        """Return True if energies and structures under these conditions can be compared with it."""
        return self.forcefield == forcefield and math.isclose(self.temperature_k, temperature_k, abs_tol=0.01)


def conditions(forcefield: str, temperature_k: float) -> str:
    """Format force field and temperature for people."""
    return f"{forcefield} at {temperature_k:g} K"


def save_reference(
    path: str | Path,
    positions_nm: ArrayLike,
    tica: Tica | None,
    atoms: Sequence[str] = (),
    *,
    forcefield: str = DEFAULT_FORCEFIELD,
    temperature_k: float = PUBLISHED_K,
    engine: str = "",
    time_ns: float = math.nan,
    log_weights: ArrayLike | None = None,
    run_lengths: Sequence[int] = (),
) -> None:
    """Write a reference trajectory, its TICA and what it is of (see `ReferenceTrajectory`), whole or not at all.

    Shape: (T, N, 3), N atoms, log_weights (T,). Raises: ValueError for another number of names than of atoms, of
    log-weights than of frames, for log-weights of NaN or +inf, or all -inf, and for runs that are not all frames.
    """
    path, positions = Path(path), np.asarray(positions_nm, dtype=np.float32)
    if atoms and len(atoms) != positions.shape[1]:
        raise ValueError(f"{len(atoms)} names for {positions.shape[1]} atoms a frame: give one each")
    arrays: dict[str, Any] = {"positions": positions}
    if tica is not None:
        dim = np.int64(tica.projection.shape[1])
        arrays |= {"tica_mean": tica.mean, "tica_projection": tica.projection, "tica_dim": dim}
    if atoms:
        arrays["atoms"] = np.array(atoms)
    arrays |= {"forcefield": np.array(forcefield), "temperature_k": np.float64(temperature_k)}
    arrays |= {"engine": np.array(engine), "time_ns": np.float64(time_ns)}
    if log_weights is not None:
        arrays["log_weights"] = checked_log_weights(log_weights, len(positions), "reference")
    if lengths := checked_run_lengths(run_lengths, len(positions)):
        arrays["run_lengths"] = np.array(lengths)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:  # a file: savez would change the name
        np.savez_compressed(file, **arrays)


def load_reference(path: str | Path | IO[bytes]) -> ReferenceTrajectory:
    """Read a reference trajectory, with the TICA of the file, if it holds one, cut to its `tica_dim`.

    Raises: ValueError when the file is not such an archive, or its weights or runs are not those of its frames.
    """
    log_weights: NDArray[np.float64] | None = None
    try:
        with np.load(path, allow_pickle=False) as archive:
            positions = np.asarray(archive["positions"], dtype=np.float32)
            tica = None
            if {"tica_mean", "tica_projection"} <= set(archive):
                dim = int(archive["tica_dim"]) if "tica_dim" in archive else None
                tica = Tica(mean=archive["tica_mean"], projection=archive["tica_projection"][:, :dim])
            atoms = tuple(str(name) for name in archive["atoms"]) if "atoms" in archive else ()
            said: dict[str, Any] = {k: str(archive[k]) for k in ("forcefield", "engine") if k in archive}
            said |= {k: float(archive[k]) for k in ("temperature_k", "time_ns") if k in archive}
            if "log_weights" in archive:
                log_weights = np.asarray(archive["log_weights"], dtype=np.float64)
            lengths = archive["run_lengths"] if "run_lengths" in archive else np.array([], dtype=np.int64)
    except FileNotFoundError:
        raise
    except BAD_ARCHIVE as error:
        raise ValueError(f"{path} is not a reference trajectory ({error}); it needs 'positions' (T, N, 3)") from None
    if positions.ndim != 3 or positions.shape[2] != 3:
        raise ValueError(f"{path}: positions have shape {positions.shape}, expected (T, N, 3)")
    if atoms and len(atoms) != positions.shape[1]:
        raise ValueError(f"{path} names {len(atoms)} atoms and has {positions.shape[1]} a frame: simulate it again")
    try:
        if log_weights is not None:
            log_weights = checked_log_weights(log_weights, len(positions), "reference")
        said["run_lengths"] = checked_run_lengths(lengths, len(positions))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return ReferenceTrajectory(positions_nm=positions, tica=tica, atoms=atoms, log_weights=log_weights, **said)


def find_reference(data_dir: str | Path, sequence: str) -> Path | None:
    """The reference trajectory of a sequence in any split, or None."""
    return next(iter(find_references(data_dir, sequence)), None)


def find_references(data_dir: str | Path, sequence: str) -> list[Path]:
    """The reference trajectories of a sequence, at most one a split: they may be at different temperatures."""
    check_letters(sequence)
    folder = Path(data_dir) / "trajectories_subsampled"
    right = f"{n_residues(sequence)}AA"  # caps used to count as letters: folders of that time come after
    found = [sorted((folder / split).glob(f"*AA/{sequence}_subsampled.npz")) for split in SPLITS]
    return [path for paths in found for path in sorted(paths, key=lambda path: path.parent.name != right)]


def sequences_with_reference(data_dir: str | Path, split: str) -> list[str]:
    """Sequences of a split that have a reference trajectory, short ones first.

    Raises: ValueError when there is none.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown: choose one of {', '.join(SPLITS)}")
    folder = Path(data_dir) / "trajectories_subsampled" / split
    found = {path.stem.removesuffix("_subsampled") for path in folder.glob("*AA/*_subsampled.npz")}
    if not found:
        others = [s for s in SPLITS if any(folder.with_name(s).glob("*AA/*_subsampled.npz"))]
        hint = f"there are some in {' and '.join(f'split={s}' for s in others)}" if others else ""
        raise ValueError(
            f"no reference trajectory below {folder}: {hint or 'make some with jobs/simulate.py, or check data_dir'}"
        )
    return sorted(found, key=lambda sequence: (n_residues(sequence), sequence))


def find_pdb(data_dir: str | Path, sequence: str) -> Path | None:
    """The PDB file of a sequence in any split, or None."""
    check_letters(sequence)
    folder = Path(data_dir) / "pdbs"
    return next((p for split in SPLITS if (p := folder / split / f"{sequence}.pdb").is_file()), None)


@cache
def _splits() -> dict[str, str]:
    lists = json.loads(Path(__file__).with_name("splits.json").read_text())
    return {s: split for key, split in (("validation", "val"), ("test", "test")) for s in lists[key]}


def published_split(sequence: str) -> str | None:
    """`val` or `test` for the sequences that are never trained on, else None."""
    return _splits().get(sequence)


def published_sequences(split: str, residues: int) -> list[str]:
    """The published peptides of split `val` or `test` with so many residues, in alphabetical order."""
    return sorted(s for s, kind in _splits().items() if kind == split and len(s) == residues)


def check_letters(sequence: str) -> None:
    """Letters, digits of a molecule's name, and hyphens (`ACE-A-NME`): it becomes part of a file name."""
    if not re.fullmatch("[A-Za-z0-9]+(-[A-Za-z0-9]+)*", sequence):
        raise ValueError(
            f"sequence {sequence!r} is not a row of one-letter codes with or without caps; use letters and hyphens"
        )
