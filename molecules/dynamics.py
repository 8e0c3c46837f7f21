"""Molecular dynamics of the published protocol with OpenMM, in chunks that can be interrupted at any moment.

A chunk is a pure function of the last frame of the one before (float32 positions and velocities), the seed
and the chunk's index: a run that was killed and started again has the same bytes as an undisturbed one.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import openmm

from .energy import current_core, make_context, pinned
from .forcefield import create_system
from .runs import (
    MDConfig,
    Progress,
    State,
    chunk_path,
    ending,
    load_start,
    load_state,
    path_before,
    record,
    save_state,
    warming,
    warmup_path,
)

if TYPE_CHECKING:
    from .peptide import Peptide


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
    total = config.chunks(time_ps)
    directory = Path(directory)
    missing = [i for i in range(total) if not chunk_path(directory, i).exists()]
    first = missing[0] if missing else None
    record(directory, peptide, config, seed, first, "openmm", {"openmm": openmm.Platform.getOpenMMVersion()})
    if not missing:
        return
    system = create_system(peptide, config.forcefield, config.hydrogen_mass_da)
    core = current_core() if core is None else core
    if first == 0 and not warmup_path(directory).exists():
        with pinned(core), _divergence_named("the warm-up", config):
            state = _warm_up(system, load_start(directory) if config.start else peptide.positions, config, seed)
        save_state(warmup_path(directory), state)
    for done, index in enumerate(missing, start=total - len(missing) + 1):
        started = time.perf_counter()
        before = load_state(path_before(directory, index))
        with pinned(core), _divergence_named(f"chunk {index}", config):
            state = _continue(system, before, config, seed, index)
        save_state(chunk_path(directory, index), state, ending(before))
        speed = config.ps_per_chunk / (time.perf_counter() - started)
        yield Progress(chunks_done=done, chunks_total=total, ps_per_second=speed)


def minimised(peptide: "Peptide", config: MDConfig) -> npt.NDArray[np.float64]:
    """The peptide's positions after minimisation, OpenMM's default tolerance. Shape: (N, 3). Units: nm."""
    with pinned(current_core()):
        context = make_context(create_system(peptide, config.forcefield))
        return _minimise(context, peptide.positions)


def _minimise(context: openmm.Context, positions_nm: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    context.setPositions(positions_nm)
    openmm.LocalEnergyMinimizer.minimize(context)
    positions: npt.NDArray[np.float64] = context.getState(positions=True).getPositions(asNumpy=True)._value
    return positions


def _warm_up(system: openmm.System, positions_nm: npt.NDArray[np.floating], config: MDConfig, seed: int) -> State:
    """Minimise, unless the start is a flow's draw, draw velocities, equilibrate: one frame."""
    context, velocity_seed = langevin_context(system, config, (0,), seed)
    if config.start:
        context.setPositions(positions_nm.astype(np.float64))
    else:
        _minimise(context, positions_nm)
    context.setVelocitiesToTemperature(config.temperature_k, velocity_seed)
    context.getIntegrator().setFriction(warming(config).friction_per_ps)
    if config.hot_steps:
        context.getIntegrator().setTemperature(config.hot_temperature_k)
        _frames(context, 1, config.hot_steps)
        context.getIntegrator().setTemperature(config.temperature_k)
    return _frames(context, 1, config.warmup_steps)


def _continue(system: openmm.System, before: State, config: MDConfig, seed: int, index: int) -> State:
    """Chunk `index`, from the last frame of the one before."""
    context, _ = langevin_context(system, config, (index + 1,), seed)
    context.setPositions(before[0][-1].astype(np.float64))
    context.setVelocities(before[1][-1].astype(np.float64))
    return _frames(context, config.frames_per_chunk, config.steps_per_frame)


def langevin_context(
    system: openmm.System, config: MDConfig, spawn_key: tuple[int, ...], seed: int, temperature_k: float | None = None
) -> tuple[openmm.Context, int]:
    """A new Context with its own random numbers, and a seed for velocities; at the temperature of `config` or another.

    Call it inside `pinned`.
    """
    seeds = np.random.SeedSequence(seed, spawn_key=spawn_key).generate_state(2)
    noise_seed, velocity_seed = (int(s % (2**31 - 1)) + 1 for s in seeds)  # OpenMM takes 0 as "any"
    integrator = openmm.LangevinMiddleIntegrator(
        temperature_k or config.temperature_k, config.friction_per_ps, config.timestep_fs / 1000
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
