"""A ladder of replica exchange on disk: its settings, and the chunks that it is made of.

A ladder has R rungs, temperatures T_0 < … < T_{R−1}; files hold configurations by rung. A walker is a configuration
that moves through the rungs; walker w starts on rung w.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .runs import (
    MDConfig,
    check_begins,
    chunk_path,
    fingerprint,
    read_arrays,
    run_name,
    warmup_path,
    write_arrays,
)
from .storage import read_json

METHOD = "replica exchange"
MAX_RUNGS = 128


@dataclass(frozen=True, kw_only=True)
class ExchangeConfig:
    """Temperature replica exchange on a geometric ladder, from md.temperature_k to `max_temperature_k`.

    Without `temperatures_k` a pilot of `pilot_ps` chooses the number of rungs such that neighbours swap at about
    `swap_rate`. They try to every `exchange_ps`. `rung`: the one whose temperature references and shards are of.
    """

    max_temperature_k: float = 800.0
    temperatures_k: tuple[float, ...] | None = None
    swap_rate: float = 0.3
    pilot_ps: float = 10.0
    exchange_ps: float = 0.1
    rung: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.swap_rate < 1:
            raise ValueError(f"swap_rate={self.swap_rate}: give a fraction between 0 and 1")
        for name in ("max_temperature_k", "pilot_ps", "exchange_ps"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name}={getattr(self, name)}: give a positive number")
        if self.temperatures_k is not None:
            object.__setattr__(self, "temperatures_k", tuple(float(t) for t in self.temperatures_k))
            if not 2 <= len(self.temperatures_k) <= MAX_RUNGS:
                raise ValueError(f"temperatures_k has {len(self.temperatures_k)} temperatures: give 2 to {MAX_RUNGS}")
            if not (np.all(np.diff([0.0, *self.temperatures_k]) > 0) and np.isfinite(self.temperatures_k[-1])):
                raise ValueError(f"temperatures_k={list(self.temperatures_k)}: give positive numbers, rising")
        rungs = len(self.temperatures_k or range(MAX_RUNGS))
        if not 0 <= self.rung < rungs:
            raise ValueError(f"rung={self.rung}: give 0 to {rungs - 1}")

    def check(self, config: MDConfig) -> None:
        """Check that the two fit together. Raises: ValueError if not."""
        self.steps_per_attempt(config)
        self.attempts_per_frame(config)
        if self.temperatures_k is None and self.max_temperature_k <= config.temperature_k:
            raise ValueError(f"remd.max_temperature_k={self.max_temperature_k:g}: give more than md.temperature_k")
        if self.temperatures_k is not None and self.temperatures_k[0] != config.temperature_k:
            raise ValueError(
                f"the lowest of remd.temperatures_k is {self.temperatures_k[0]:g}: it must be "
                f"md.temperature_k={config.temperature_k:g}"
            )

    def steps_per_attempt(self, config: MDConfig) -> int:
        """Integration steps from one attempt to swap to the next. Raises: ValueError for no whole number."""
        return _whole(self.exchange_ps * 1000, config.timestep_fs, "remd.exchange_ps", "md.timestep_fs")

    def attempts_per_frame(self, config: MDConfig) -> int:
        """Attempts to swap from one frame to the next. Raises: ValueError for no whole number."""
        return _whole(config.interval_ps, self.exchange_ps, "md.interval_ps", "remd.exchange_ps")


def _whole(value: float, unit: float, name: str, of: str) -> int:
    count = round(value / unit)
    if count < 1 or not np.isclose(count * unit, value):
        raise ValueError(f"{name} must be a whole multiple of {of}: change one of the two")
    return count


ARRAYS = ("positions", "velocities", "energy_kT", "walkers")  # names of those of a `LadderChunk` in its file


class LadderChunk(NamedTuple):
    """A chunk of a ladder: see `LadderTrajectory`; `velocities` (R, N, 3) in nm/ps belong to the last positions."""

    positions_nm: npt.NDArray[np.float32]
    velocities: npt.NDArray[np.float32]
    energy_kT: npt.NDArray[np.float32]
    walkers: npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class LadderTrajectory:
    """One ladder of replica exchange: F frames of R rungs every `interval_ps`, and E attempts to swap.

    `energy_kT` is in kT of the lowest rung. `walkers[e, r]`: walker on rung r after attempt e, of which there are E / F
    a frame; frame f is taken after attempt (f + 1) E / F − 1. Attempt e is between rungs r and r + 1 of r ≡ e mod 2.

    Shape: temperatures_k R of them, positions_nm (F, R, N, 3), energy_kT (F, R), walkers (E, R).
    """

    temperatures_k: tuple[float, ...]
    positions_nm: npt.NDArray[np.float32]
    energy_kT: npt.NDArray[np.float64]
    walkers: npt.NDArray[np.uint8]
    interval_ps: float


def ladder_name(sequence: str, config: MDConfig, ladder: int = 0) -> str:
    """Directory name of a ladder: as `run_name`, after the method."""
    name = run_name(sequence, config, ladder)
    return f"{sequence}_remd{name.removeprefix(sequence)}"


def save_chunk(path: Path, chunk: LadderChunk, begins: str = "") -> None:
    """Write a chunk, whole or not at all; `begins`: the `ladder_ending` of the file with whose end it starts."""
    write_arrays(path, dict(zip(ARRAYS, chunk, strict=True)), begins)


def load_chunk(path: Path) -> LadderChunk:
    """Read a chunk. Raises: ValueError if the file is damaged."""
    return _chunk_of(path, read_arrays(path))


def ladder_ending(chunk: LadderChunk) -> str:
    """Fingerprint of the end of a file: those of other ladders differ."""
    return fingerprint(chunk.positions_nm[-1], chunk.velocities)


def _chunk_of(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> LadderChunk:
    try:
        return LadderChunk(*(arrays[name] for name in ARRAYS))
    except KeyError as error:
        raise ValueError(f"{path} cannot be read: delete it and simulate again") from error


def load_ladder(directory: str | Path, chunks: int | None = None) -> LadderTrajectory:
    """All frames of a ladder, or those of its first `chunks`.

    Raises: ValueError if there is no chunk, or one is missing in between, unreadable or another ladder's.
    """
    directory = Path(directory)
    settings = ladder_settings(directory)
    count = chunks or len(list((directory / "chunks").glob("chunk_*.npz")))
    if settings is None or not count:
        raise ValueError(f"no ladder under {directory}: simulate with method=remd first, or check the path")
    absent = [i for i in range(count) if not chunk_path(directory, i).exists()]
    if absent:
        raise ValueError(f"chunk_{absent[0]}.npz is missing in {directory}: simulate again to fill the gap")
    warm, found = warmup_path(directory), []
    before = ladder_ending(load_chunk(warm)) if warm.exists() else ""
    for index in range(count):
        arrays = read_arrays(chunk_path(directory, index))
        check_begins(directory, index, arrays, before)
        found.append(_chunk_of(chunk_path(directory, index), arrays))
        before = ladder_ending(found[-1])
    return LadderTrajectory(
        temperatures_k=tuple(settings["temperatures_k"]),
        positions_nm=np.concatenate([chunk.positions_nm for chunk in found]),
        energy_kT=np.concatenate([chunk.energy_kT for chunk in found]).astype(np.float64),
        walkers=np.concatenate([chunk.walkers for chunk in found]),
        interval_ps=settings["interval_ps"],
    )


def ladder_settings(directory: Path) -> dict[str, Any] | None:
    """Settings of a ladder; None for a directory of something else."""
    path = directory / "run.json"
    settings = read_json(path)["settings"] if path.exists() else {}
    return settings if settings.get("method") == METHOD else None


def load_rung(directory: str | Path, rung: int) -> npt.NDArray[np.float32]:
    """Frames of one rung of a ladder, in order. Shape: (T, N, 3). Units: nm. Raises: ValueError as `load_ladder`."""
    directory = Path(directory)
    count = len(list((directory / "chunks").glob("chunk_*.npz")))
    if not count:
        raise ValueError(f"no chunks under {directory}: simulate first, or check the path")
    return np.concatenate([load_chunk(chunk_path(directory, i)).positions_nm[:, rung] for i in range(count)])


def settings_of(exchange: ExchangeConfig, temperatures_k: Sequence[float]) -> dict[str, Any]:
    """Settings of a ladder as run.json has them, next to those of its dynamics."""
    return {"method": METHOD, "temperatures_k": list(temperatures_k), "exchange_ps": exchange.exchange_ps}


def walks_of(ladders: Sequence[LadderTrajectory], frames: int) -> list[npt.NDArray[np.float32]]:
    """Trajectories of single walkers, continuous in time, at changing temperatures; some `frames` in all.

    Shape: (F, N, 3) each.
    """
    found: list[npt.NDArray[np.float32]] = []
    for ladder in ladders:
        attempts = len(ladder.walkers) // len(ladder.positions_nm)
        rungs = np.argsort(ladder.walkers[attempts - 1 :: attempts], axis=1)  # of each walker at each frame
        for walker in range(len(ladder.temperatures_k)):
            if found and (len(found) + 1) * len(ladder.positions_nm) > frames:
                return found
            found.append(ladder.positions_nm[np.arange(len(rungs)), rungs[:, walker]])
    return found
