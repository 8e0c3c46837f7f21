"""Molecular dynamics of the published protocol, in chunks that can be interrupted at any moment.

A chunk is a pure function of the last frame of the one before (float32 positions and velocities), the seed
and the chunk's index: a run that was killed and started again has the same bytes as an undisturbed one.
"""

import hashlib
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import openmm

from molecules.energy import current_core, make_context, pinned
from molecules.forcefield import DEFAULT_FORCEFIELD, check_forcefield, create_system

if TYPE_CHECKING:
    from molecules.peptide import Peptide

Frames = npt.NDArray[np.float32]
State = tuple[Frames, Frames]  # positions nm, velocities nm/ps


@dataclass(frozen=True, kw_only=True)
class MDConfig:
    """Langevin dynamics (LangevinMiddle), a frame every `interval_ps`. Defaults: published training runs."""

    temperature_k: float = 310.0
    timestep_fs: float = 1.0
    friction_per_ps: float = 0.3
    warmup_ps: float = 50.0
    interval_ps: float = 1.0
    frames_per_chunk: int = 100
    forcefield: str = DEFAULT_FORCEFIELD

    def __post_init__(self) -> None:
        check_forcefield(self.forcefield)
        for name in ("temperature_k", "timestep_fs", "friction_per_ps", "interval_ps"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name}={getattr(self, name)}: give a positive number")
        if not 0 <= self.warmup_ps < np.inf:
            raise ValueError(f"warmup_ps={self.warmup_ps}: give zero or a positive number")
        if self.frames_per_chunk < 1:
            raise ValueError(f"frames_per_chunk={self.frames_per_chunk}: give at least 1")
        if self.steps_per_frame < 1 or not np.isclose(self.steps_per_frame * self.timestep_fs, self.interval_ps * 1000):
            raise ValueError(
                f"interval_ps={self.interval_ps} is not a whole number of steps of {self.timestep_fs} fs: "
                "change interval_ps or timestep_fs"
            )

    @property
    def steps_per_frame(self) -> int:
        """Integration steps from one frame to the next."""
        return round(self.interval_ps * 1000 / self.timestep_fs)

    @property
    def ps_per_chunk(self) -> float:
        """Simulated time of one chunk."""
        return self.interval_ps * self.frames_per_chunk


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is: chunks there, chunks asked for, and the speed of the last one."""

    chunks_done: int
    chunks_total: int
    ps_per_second: float


def run_name(sequence: str, config: MDConfig, replica: int = 0) -> str:
    """Directory name of a run: sequence, temperature (K), interval (ps), frames per chunk."""
    name = f"{sequence}_{config.temperature_k:g}_{config.interval_ps:g}_{config.frames_per_chunk}"
    return f"{name}_r{replica}" if replica else name


def simulate(
    peptide: "Peptide",
    directory: str | Path,
    config: MDConfig,
    time_ps: float,
    seed: int,
    core: int | None = None,
) -> Iterator[Progress]:
    """Bring a run up to at least `time_ps` (whole chunks), yielding after each new chunk.

    Goes on from what the directory holds; a longer `time_ps` extends a finished run. Writes `run.json`,
    `warmup.npz` and `chunks/chunk_{i}.npz`: `positions`, `velocities` (F, N, 3) float32 in nm, nm/ps.

    Raises: ValueError if the directory holds a run with other settings; RuntimeError if the dynamics diverge.
    """
    if not 0 < time_ps < np.inf:
        raise ValueError(f"time_ps={time_ps}: give a positive simulation time")
    directory = Path(directory)
    total = int(np.ceil(time_ps / config.ps_per_chunk - 1e-9))
    missing = [i for i in range(total) if not _chunk(directory, i).exists()]
    _record(directory, peptide, config, seed, first_chunk=missing[0] if missing else None)
    if not missing:
        return
    system = create_system(peptide, config.forcefield)
    core = current_core() if core is None else core
    if missing[0] == 0 and not (directory / "warmup.npz").exists():
        with pinned(core), _divergence_named("the warm-up", config):
            state = _warm_up(system, peptide.positions, config, seed)
        _save(directory / "warmup.npz", state)
    for done, index in enumerate(missing, start=total - len(missing) + 1):
        started = time.perf_counter()
        before = _load(_chunk(directory, index - 1) if index else directory / "warmup.npz")
        with pinned(core), _divergence_named(f"chunk {index}", config):
            state = _continue(system, before, config, seed, index)
        _save(_chunk(directory, index), state)
        speed = config.ps_per_chunk / (time.perf_counter() - started)
        yield Progress(chunks_done=done, chunks_total=total, ps_per_second=speed)


def load_trajectory(directory: str | Path) -> Frames:
    """All frames of a run, in order. Shape: (T, N, 3) float32. Units: nm.

    Raises: ValueError if there is no chunk, or one is missing in between or unreadable.
    """
    directory = Path(directory)
    count = len(list((directory / "chunks").glob("chunk_*.npz")))
    if not count:
        raise ValueError(f"no chunks under {directory}: simulate first, or check the path")
    absent = [i for i in range(count) if not _chunk(directory, i).exists()]
    if absent:
        raise ValueError(f"chunk_{absent[0]}.npz is missing in {directory}: simulate again to fill the gap")
    return np.concatenate([_load(_chunk(directory, i))[0] for i in range(count)])


def _warm_up(system: openmm.System, positions_nm: npt.NDArray[np.float64], config: MDConfig, seed: int) -> State:
    """Minimise, draw velocities, equilibrate: one frame."""
    context, velocity_seed = _prepare(system, config, seed, spawn_key=0)
    context.setPositions(positions_nm)
    openmm.LocalEnergyMinimizer.minimize(context)
    context.setVelocitiesToTemperature(config.temperature_k, velocity_seed)
    return _frames(context, 1, round(config.warmup_ps * 1000 / config.timestep_fs))


def _continue(system: openmm.System, before: State, config: MDConfig, seed: int, index: int) -> State:
    """Chunk `index`, from the last frame of the one before."""
    context, _ = _prepare(system, config, seed, spawn_key=index + 1)
    context.setPositions(before[0][-1].astype(np.float64))
    context.setVelocities(before[1][-1].astype(np.float64))
    return _frames(context, config.frames_per_chunk, config.steps_per_frame)


def _prepare(system: openmm.System, config: MDConfig, seed: int, spawn_key: int) -> tuple[openmm.Context, int]:
    """A new Context with its own random numbers, and a seed for velocities."""
    seeds = np.random.SeedSequence(seed, spawn_key=(spawn_key,)).generate_state(2)
    noise_seed, velocity_seed = (int(s % (2**31 - 1)) + 1 for s in seeds)  # OpenMM takes 0 as "any"
    integrator = openmm.LangevinMiddleIntegrator(
        config.temperature_k, config.friction_per_ps, config.timestep_fs / 1000
    )
    integrator.setRandomNumberSeed(noise_seed)
    return make_context(system, integrator=integrator), velocity_seed


def _frames(context: openmm.Context, count: int, steps: int) -> State:
    """Advance by `count` times `steps` and keep what is reached each time."""
    shape = (count, context.getSystem().getNumParticles(), 3)
    positions, velocities = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for frame in range(count):
        for done in range(0, steps, 1000):  # Python sees Ctrl-C between the calls only
            context.getIntegrator().step(min(1000, steps - done))
        state = context.getState(positions=True, velocities=True)
        positions[frame] = state.getPositions(asNumpy=True)._value
        velocities[frame] = state.getVelocities(asNumpy=True)._value
    if not (np.isfinite(positions).all() and np.isfinite(velocities).all()):
        raise openmm.OpenMMException("coordinates are not finite")
    return positions, velocities


@contextmanager
def _divergence_named(where: str, config: MDConfig) -> Iterator[None]:
    try:
        yield
    except openmm.OpenMMException as error:
        raise RuntimeError(
            f"the dynamics failed in {where} ({str(error).split('.')[0]}): "
            f"lower timestep_fs={config.timestep_fs:g} or check the starting structure"
        ) from error


def _record(directory: Path, peptide: "Peptide", config: MDConfig, seed: int, first_chunk: int | None) -> None:
    """Write run.json, or compare with the one that is there; note the versions from `first_chunk` on."""
    atoms = " ".join(f"{a.residue.index}:{a.residue.name}:{a.name}" for a in peptide.topology.atoms())
    settings: dict[str, Any] = {
        "sequence": peptide.sequence,
        "atoms_sha256": hashlib.sha256(atoms.encode()).hexdigest(),
        "seed": seed,
        **asdict(config),
    }
    versions = {
        "openmm": openmm.Platform.getOpenMMVersion(),
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }
    path = directory / "run.json"
    history = []
    if path.exists():
        stored = json.loads(path.read_text())
        differing = [
            f"{name} was {stored['settings'].get(name)} and is now {value}"
            for name, value in settings.items()
            if stored["settings"].get(name) != value
        ]
        if differing:
            raise ValueError(
                f"{directory} holds another run ({'; '.join(differing)}): use the same settings or another directory"
            )
        history = stored["versions"]
    if first_chunk is None or (history and history[-1]["versions"] == versions):
        return
    history.append({"from_chunk": first_chunk, "versions": versions})
    text = json.dumps({"settings": settings, "versions": history}, indent=2)
    _replace(path, lambda file: file.write(text.encode()))


def _chunk(directory: Path, index: int) -> Path:
    return directory / "chunks" / f"chunk_{index}.npz"


def _load(path: Path) -> State:
    try:
        with np.load(path) as arrays:
            return arrays["positions"], arrays["velocities"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: delete it and simulate again") from error


def _save(path: Path, state: State) -> None:
    _replace(path, lambda file: np.savez(file, positions=state[0], velocities=state[1]))


def _replace(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file under a temporary name and rename it: readers see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
