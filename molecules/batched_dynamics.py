"""Langevin dynamics of many replicas of one peptide at once: the published protocol on tensors.

A chunk is a pure function of the last frames of the one before, the seed, the chunk's index and the number of
replicas; the files are those of `molecules.dynamics`, one directory a replica.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from molecules.batched_energy import BatchedEnergy

if TYPE_CHECKING:
    from molecules.dynamics import MDConfig, Progress
    from molecules.peptide import Peptide


class Replicas(NamedTuple):
    """Positions, and velocities half a step before them, as leapfrog has it (B, N, 3). Units: nm, nm/ps."""

    x: Tensor
    v: Tensor


Step = Callable[[Replicas, torch.Generator], Replicas]


def langevin_step(energy: BatchedEnergy, timestep_fs: float, friction_per_ps: float) -> Step:
    """One step of LangevinMiddle at the energy's temperature, the centre of mass held at rest as in OpenMM.

    Without friction this is leapfrog Verlet. A replica that diverges ends up with NaN.

    Source: Zhang et al. 2019, J. Phys. Chem. A 123, 6056; OpenMM's LangevinMiddleIntegrator.
    """
    mass = energy.mass[:, None]
    share = mass / mass.sum()
    dt = timestep_fs / 1000
    kick = -dt * energy.kt / mass
    keep = float(np.exp(-friction_per_ps * dt))
    noise = ((1 - keep**2) * energy.kt / mass).sqrt()

    def step(state: Replicas, generator: torch.Generator) -> Replicas:
        _, gradient = energy.unchecked(state.x)
        assert gradient is not None
        v = state.v - (share * state.v).sum(1, keepdim=True)
        v = torch.addcmul(v, kick, gradient)
        x = state.x + 0.5 * dt * v
        if keep < 1:
            v = torch.addcmul(keep * v, noise, _normal(v, generator))
        return Replicas(x + 0.5 * dt * v, v)

    return step


def thermal_velocities(energy: BatchedEnergy, x_nm: Tensor, generator: torch.Generator) -> Tensor:
    """Velocities (B, N, 3) of the Maxwell distribution at the energy's temperature. Units: nm/ps."""
    return (energy.kt / energy.mass[:, None]).sqrt() * _normal(x_nm, generator)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)


def simulate(
    energy: BatchedEnergy,
    peptide: "Peptide",
    directories: Sequence[str | Path],
    config: "MDConfig",
    time_ps: float,
    seed: int,
) -> Iterator["Progress"]:
    """Bring a replica in each directory up to at least `time_ps` (whole chunks), yielding after each chunk.

    As `molecules.dynamics.simulate`, with the same files, on the device and in the precision of `energy`.
    Needs OpenMM, to minimise. The same bytes after a restart with the same directories on the same hardware.

    Raises: ValueError if a directory holds a run with other settings, or the energy is at another temperature;
        RuntimeError if the dynamics diverge.
    """
    from molecules import dynamics

    if not 0 < time_ps < np.inf:
        raise ValueError(f"time_ps={time_ps}: give a positive simulation time")
    if energy.temperature_k != config.temperature_k or energy.n_atoms != peptide.n_atoms:
        raise ValueError(
            f"the energy is of {energy.n_atoms} atoms at {energy.temperature_k} K, the run of "
            f"{peptide.n_atoms} at {config.temperature_k} K: make it for this peptide and temperature"
        )
    folders = [Path(directory) for directory in directories]
    total = int(np.ceil(time_ps / config.ps_per_chunk - 1e-9))
    missing = [i for i in range(total) if not all(dynamics._chunk(f, i).exists() for f in folders)]
    for folder in folders:
        dynamics._record(folder, peptide, config, seed, first_chunk=missing[0] if missing else None)
    if not missing:
        return
    step = langevin_step(energy, config.timestep_fs, config.friction_per_ps)
    starts = [folder / "warmup.npz" for folder in folders]
    if missing[0] == 0 and not all(start.exists() for start in starts):
        generator = _generator(energy, seed, 0)
        x = torch.from_numpy(_minimised(peptide, config)).to(energy.mass).expand(len(folders), -1, -1)
        state = Replicas(x, thermal_velocities(energy, x, generator))
        steps = round(config.warmup_ps * 1000 / config.timestep_fs)
        _save(starts, _frames(step, state, generator, 1, steps, "the warm-up"))
    for done, index in enumerate(missing, start=total - len(missing) + 1):
        began = time.perf_counter()
        paths = [dynamics._chunk(folder, index - 1) for folder in folders] if index else starts
        last = [[part[-1] for part in dynamics._load(path)] for path in paths]
        state = Replicas(*(torch.from_numpy(np.stack(part)).to(energy.mass) for part in zip(*last, strict=True)))
        generator = _generator(energy, seed, index + 1)
        frames = _frames(step, state, generator, config.frames_per_chunk, config.steps_per_frame, f"chunk {index}")
        _save([dynamics._chunk(folder, index) for folder in folders], frames)
        speed = config.ps_per_chunk * len(folders) / (time.perf_counter() - began)
        yield dynamics.Progress(chunks_done=done, chunks_total=total, ps_per_second=speed)


def _generator(energy: BatchedEnergy, seed: int, spawn_key: int) -> torch.Generator:
    (state,) = np.random.SeedSequence(seed, spawn_key=(spawn_key,)).generate_state(1, np.uint64)
    return torch.Generator(energy.mass.device).manual_seed(int(state >> np.uint64(1)))


def _minimised(peptide: "Peptide", config: "MDConfig") -> np.ndarray:
    import openmm

    from molecules.energy import make_context
    from molecules.forcefield import create_system

    context = make_context(create_system(peptide, config.forcefield))
    context.setPositions(peptide.positions)
    openmm.LocalEnergyMinimizer.minimize(context)
    return cast(np.ndarray, context.getState(positions=True).getPositions(asNumpy=True)._value)


def _frames(step: Step, state: Replicas, generator: torch.Generator, count: int, steps: int, where: str) -> Replicas:
    """Advance by `count` times `steps` and keep what is reached each time (B, count, N, 3), on the CPU."""
    frames = []
    for _ in range(count):
        for _ in range(steps):
            state = step(state, generator)
        frames.append(Replicas(*(part.float().cpu() for part in state)))
    kept = Replicas(*(torch.stack(part, 1) for part in zip(*frames, strict=True)))
    if not all(part.isfinite().all() for part in kept):
        raise RuntimeError(f"the dynamics failed in {where}: lower timestep_fs or check the starting structure")
    return kept


def _save(paths: Sequence[Path], frames: Replicas) -> None:
    from molecules import dynamics

    for path, positions, velocities in zip(paths, frames.x.numpy(), frames.v.numpy(), strict=True):
        dynamics._save(path, (positions, velocities))
