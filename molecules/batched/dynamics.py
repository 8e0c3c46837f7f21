"""Langevin dynamics of many replicas at once, of one peptide or several: the published protocol on tensors.

A replica's chunk is a pure function of the last frame of the one before, the replica's seed and the chunk's index,
whichever replicas are computed beside it; the files are those of `molecules.dynamics`, one directory a replica.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .energy import BatchedEnergy

if TYPE_CHECKING:
    from ..peptide import Peptide
    from ..runs import MDConfig, Progress
    from .mixture import MixedEnergy

NOISE_STEPS = 100  # drawn at once for each replica: one call a step and replica would take longer than the physics


class Replicas(NamedTuple):
    """Positions, and velocities half a step before them, as leapfrog has it (B, N, 3). Units: nm, nm/ps."""

    x: Tensor
    v: Tensor


Step = Callable[[Replicas, Tensor], Replicas]


def langevin_step(
    energy: "BatchedEnergy | MixedEnergy",
    timestep_fs: float,
    friction_per_ps: float,
    temperature_k: float | Tensor | None = None,
) -> Step:
    """One step of LangevinMiddle, the centre of mass held at rest as in OpenMM.

    `temperature_k`: one for all, or one of each row (B,); the energy's unless given.

    It takes standard normal noise (B, N, 3), and without friction ignores it: then this is leapfrog Verlet. A replica
    that diverges ends up with NaN.

    Source: Zhang et al. 2019, J. Phys. Chem. A 123, 6056; OpenMM's LangevinMiddleIntegrator.
    """
    mass_fraction = _by_axis(energy.mass / energy.mass.sum(-1, keepdim=True))
    dt = timestep_fs / 1000
    kick = -dt * energy.kt * _by_axis(_inverse_mass(energy))
    keep = float(np.exp(-friction_per_ps * dt))
    spread = ((1 - keep**2) * _kt(energy, temperature_k) * _by_axis(_inverse_mass(energy))).sqrt()

    def step(state: Replicas, noise: Tensor) -> Replicas:
        _, gradient = energy.unchecked(state.x)
        assert gradient is not None
        v = state.v - (mass_fraction * state.v).sum(1, keepdim=True)
        v = torch.addcmul(v, kick, gradient)
        x = state.x + 0.5 * dt * v
        if keep < 1:
            v = torch.addcmul(keep * v, spread, noise)
        return Replicas(x + 0.5 * dt * v, v)

    return step


def thermal_velocities(
    energy: "BatchedEnergy | MixedEnergy", noise: Tensor, temperature_k: float | Tensor | None = None
) -> Tensor:
    """Velocities of the Maxwell distribution at one temperature (the energy's), or at that of each row (B,).

    `noise` is standard normal. Shape: (B, N, 3). Units: nm/ps.
    """
    return (_kt(energy, temperature_k) * _by_axis(_inverse_mass(energy))).sqrt() * noise


def _kt(energy: "BatchedEnergy | MixedEnergy", temperature_k: float | Tensor | None) -> float | Tensor:
    """Of one temperature, or of that of each row (B, 1, 1). Units: kJ/mol."""
    if isinstance(temperature_k, Tensor):
        return energy.kt / energy.temperature_k * temperature_k[:, None, None]
    return energy.kt * (temperature_k or energy.temperature_k) / energy.temperature_k


def _inverse_mass(energy: "BatchedEnergy | MixedEnergy") -> Tensor:
    """Zero for padding, so that it rests."""
    return torch.where(energy.mass > 0, 1 / energy.mass, 0.0)


def _by_axis(by_atom: Tensor) -> Tensor:
    return by_atom[..., None].repeat_interleave(3, -1)


class Noise:
    """Standard normal numbers of each replica's own stream, drawn on the CPU: the same on any device.

    One stream a replica and chunk, not one for the batch: the numbers of a replica would otherwise depend on the number
    and order of those beside it, and a restart could not leave out the replicas that are done.
    """

    def __init__(self, generators: Sequence[torch.Generator], like: Tensor) -> None:
        self.generators, self.like = generators, like

    def draw(self, steps: int) -> Tensor:
        """Shape: (steps, B, N, 3), on the device and in the precision of `like` (B, N, 3)."""
        shape = (steps, *self.like.shape[1:])
        each = [torch.randn(shape, generator=g, dtype=torch.float32, device="cpu") for g in self.generators]
        return torch.stack(each, 1).to(self.like)


def generator(seed: int, *spawn_keys: int) -> torch.Generator:
    """A stream of random numbers of its own for each seed and keys."""
    # 63 bits of the key: torch takes a signed seed.
    (state,) = np.random.SeedSequence(seed, spawn_key=spawn_keys).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def simulate(
    energy: "BatchedEnergy | MixedEnergy",
    peptides: "Peptide | Sequence[Peptide]",
    directories: Sequence[str | Path],
    config: "MDConfig",
    time_ps: float,
    seeds: Sequence[int],
) -> Iterator["Progress"]:
    """Bring a replica in each directory, with its own seed, up to `time_ps`; yields after each chunk of all.

    `peptides`: one for all directories, or of a `MixedEnergy` that of each row. As `molecules.dynamics.simulate`, with
    the same files, on the device and in the precision of `energy`. Needs OpenMM, to minimise. The same bytes after a
    restart on the same hardware, whatever other replicas are in the batch.

    Raises: ValueError if a directory holds a run with other settings, or the energy is another one's;
        RuntimeError if the dynamics diverge.
    """
    from .. import runs

    total = config.chunks(time_ps)
    folders = [Path(directory) for directory in directories]
    owners = list(peptides) if isinstance(peptides, Sequence) else [peptides] * len(folders)
    _check(energy, owners, config)
    sizes = [peptide.n_atoms for peptide in owners]
    missing = [i for i in range(total) if not all(runs.chunk_path(f, i).exists() for f in folders)]
    for folder, peptide, seed in zip(folders, owners, seeds, strict=True):
        first = missing[0] if missing else None
        runs.record(folder, peptide, config, seed, first, engine_name(energy), versions(energy))
    if not missing:
        return
    step = langevin_step(energy, config.timestep_fs, config.friction_per_ps)
    starts = [runs.warmup_path(folder) for folder in folders]
    if missing[0] == 0 and not all(start.exists() for start in starts):
        given = [runs.load_start(folder) for folder in folders] if config.start else _minimised(owners, config)
        x = padded(given, energy)
        noise = Noise([generator(seed, 0) for seed in seeds], x)
        state = Replicas(x, thermal_velocities(energy, noise.draw(1)[0]))
        friction = runs.warming(config).friction_per_ps
        if config.hot_steps:
            hot = langevin_step(energy, config.timestep_fs, friction, config.hot_temperature_k)
            state = _last(_frames(hot, state, noise, 1, config.hot_steps, "the hot part of the warm-up"), energy)
        warm = langevin_step(energy, config.timestep_fs, friction)
        warmed = _frames(warm, state, noise, 1, config.warmup_steps, "the warm-up")
        _save(starts, warmed, sizes, kept=[start.exists() for start in starts])  # an earlier version's may differ
    for done, index in enumerate(missing, start=total - len(missing) + 1):
        began = time.perf_counter()
        last = [[part[-1] for part in runs.load_state(runs.path_before(folder, index))] for folder in folders]
        state = Replicas(*(padded(part, energy) for part in zip(*last, strict=True)))
        noise = Noise([generator(seed, index + 1) for seed in seeds], state.x)
        frames = _frames(step, state, noise, config.frames_per_chunk, config.steps_per_frame, f"chunk {index}")
        begins = [runs.fingerprint(*parts) for parts in last]
        _save([runs.chunk_path(folder, index) for folder in folders], frames, sizes, begins)
        speed = config.ps_per_chunk * len(folders) / (time.perf_counter() - began)
        yield runs.Progress(chunks_done=done, chunks_total=total, ps_per_second=speed)


def _check(energy: "BatchedEnergy | MixedEnergy", owners: "Sequence[Peptide]", config: "MDConfig") -> None:
    expected = (energy.mass > 0).sum(-1).expand(len(owners)).tolist()
    wrong = [(n, p) for n, p in zip(expected, owners, strict=True) if n != p.n_atoms]
    if wrong or energy.temperature_k != config.temperature_k:
        n, peptide = (wrong or [(expected[0], owners[0])])[0]
        raise ValueError(
            f"the energy is of {n} atoms at {energy.temperature_k} K, the run of "
            f"{peptide.n_atoms} at {config.temperature_k} K: make it for this peptide and temperature"
        )


def engine_name(energy: "BatchedEnergy | MixedEnergy") -> str:
    """Engine as recorded in run.json; a run goes on with the same one only."""
    precision = str(energy.mass.dtype).removeprefix("torch.")
    return f"batched {precision}" + (f" padded to {energy.n_atoms}" if energy.mass.ndim == 2 else "")


def _minimised(owners: "Sequence[Peptide]", config: "MDConfig") -> list[np.ndarray]:
    from ..dynamics import minimised

    found: dict[int, np.ndarray] = {}
    for peptide in owners:
        if id(peptide) not in found:
            found[id(peptide)] = minimised(peptide, config)
    return [found[id(peptide)] for peptide in owners]


def padded(rows: Sequence[np.ndarray], energy: "BatchedEnergy | MixedEnergy") -> Tensor:
    """Rows (N_i, 3) as (B, N, 3), zeros after the atoms of each."""
    result = np.zeros((len(rows), energy.n_atoms, 3), rows[0].dtype)
    for i, row in enumerate(rows):
        result[i, : len(row)] = row
    return torch.from_numpy(result).to(energy.mass)


def versions(energy: "BatchedEnergy | MixedEnergy") -> dict[str, str]:
    """Versions and hardware on which the last bits depend."""
    device = energy.mass.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"torch": torch.__version__, "device": name, "compiled": str(energy.compiled)}


def _frames(step: Step, state: Replicas, noise: Noise, count: int, steps: int, where: str) -> Replicas:
    """Advance by `count` times `steps` and keep what is reached each time (B, count, N, 3), on the CPU."""
    frames, at, drawn = [], NOISE_STEPS, state.x
    for _ in range(count):
        for _ in range(steps):
            if at == NOISE_STEPS:  # the last steps of a chunk leave some numbers unused; the next has its own stream
                at, drawn = 0, noise.draw(NOISE_STEPS)
            state = step(state, drawn[at])
            at += 1
        frames.append(Replicas(*(part.float().cpu() for part in state)))
    kept = Replicas(*(torch.stack(part, 1) for part in zip(*frames, strict=True)))
    if not all(part.isfinite().all() for part in kept):
        raise RuntimeError(f"the dynamics failed in {where}: lower timestep_fs or check the starting structure")
    return kept


def _last(frames: Replicas, energy: "BatchedEnergy | MixedEnergy") -> Replicas:
    """State at the last of `frames` (B, count, N, 3), on the energy's device."""
    return Replicas(*(part[:, -1].to(energy.mass) for part in frames))


def _save(
    paths: Sequence[Path], frames: Replicas, sizes: Sequence[int], begins: Sequence[str] = (), kept: Sequence[bool] = ()
) -> None:
    """Write the frames of each replica, but of those that are `kept` as they are."""
    from .. import runs

    rows = zip(paths, sizes, frames.x.numpy(), frames.v.numpy(), begins or [""] * len(paths), strict=True)
    for i, (path, n, positions, velocities, start) in enumerate(rows):
        if not (kept and kept[i]):
            runs.save_state(path, (positions[:, :n], velocities[:, :n]), start)
