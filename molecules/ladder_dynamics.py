"""Replica exchange in chunks that can be interrupted at any moment, with either engine."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from .batched.dynamics import Replicas, generator
from .batched.exchange import Dynamics, Walk, walk
from .constants import KB
from .dynamics import minimised
from .ladder_choice import LadderChoice, choose_ladder, geometric
from .replica_exchange import ExchangeConfig, LadderChunk, ladder_ending, load_chunk, save_chunk, settings_of
from .runs import MDConfig, Progress, chunk_path, path_before, record, warmup_path

if TYPE_CHECKING:
    from .peptide import Peptide

PILOT_FRICTION_PER_PS = 5.0
_VELOCITIES, _SWAPS = 2**31, 2**31 + 1  # keys of random streams, where rungs have their number


class LadderEngine(Protocol):
    """Engine that moves ladders. `mass` (N,) in Da, on its device and in its precision."""

    @property
    def mass(self) -> Tensor: ...
    @property
    def name(self) -> str: ...
    @property
    def versions(self) -> Mapping[str, str]: ...

    def dynamics(self, seeds: Sequence[int], key: int, temperatures_k: Sequence[float]) -> Dynamics:
        """Dynamics of a ladder for each seed; random numbers are of the seed, the key and the rung.

        Key 0 is the warm-up, with its friction.
        """
        ...


def simulate_ladders(
    engine: LadderEngine,
    peptide: "Peptide",
    directories: Sequence[str | Path],
    config: MDConfig,
    exchange: ExchangeConfig,
    temperatures_k: Sequence[float],
    time_ps: float,
    seeds: Sequence[int],
) -> Iterator[Progress]:
    """Bring a ladder in each directory, with its own seed, up to `time_ps`; yields after each chunk of all.

    Goes on from what the directories hold, with the same bytes as undisturbed, whatever other ladders are beside it.
    Needs OpenMM, to minimise.

    Raises: ValueError if a directory holds a run with other settings; RuntimeError if the dynamics diverge.
    """
    total = config.chunks(time_ps)
    folders = [Path(directory) for directory in directories]
    missing = [i for i in range(total) if not all(chunk_path(f, i).exists() for f in folders)]
    for folder, seed in zip(folders, seeds, strict=True):
        first = missing[0] if missing else None
        more = settings_of(exchange, temperatures_k)
        record(folder, peptide, config, seed, first, engine.name, engine.versions, more)
    if not missing:
        return
    ladders = _Ladders(engine, config, exchange, temperatures_k, seeds)
    if missing[0] == 0 and not all(warmup_path(f).exists() for f in folders):
        for folder, chunk in zip(folders, ladders.warmed_up(peptide), strict=True):
            if not warmup_path(folder).exists():  # an earlier version's may differ
                save_chunk(warmup_path(folder), chunk)
    for done, index in enumerate(missing, start=total - len(missing) + 1):
        began = time.perf_counter()
        before = [load_chunk(path_before(folder, index)) for folder in folders]
        for folder, start, chunk in zip(folders, before, ladders.chunk(before, index), strict=True):
            save_chunk(chunk_path(folder, index), chunk, ladder_ending(start))
        simulated = config.ps_per_chunk * len(folders) * len(temperatures_k)
        yield Progress(chunks_done=done, chunks_total=total, ps_per_second=simulated / (time.perf_counter() - began))


def pilot_config(config: MDConfig, exchange: ExchangeConfig) -> MDConfig:
    """Dynamics of the pilot: a frame at each attempt to swap, all in one chunk after as long a warm-up.

    With strong friction energies forget the minimised start in a fraction of a picosecond.
    """
    return replace(
        config,
        friction_per_ps=max(PILOT_FRICTION_PER_PS, config.friction_per_ps),
        hot_ps=0.0,
        warmup_ps=exchange.pilot_ps,
        interval_ps=exchange.exchange_ps,
        frames_per_chunk=max(1, round(exchange.pilot_ps / exchange.exchange_ps)),
    )


def choose_by_pilot(
    engine: LadderEngine, peptide: "Peptide", config: MDConfig, exchange: ExchangeConfig, seed: int, rungs: int
) -> LadderChoice:
    """Choose a ladder from mean energies over the whole range; `engine` has the dynamics of `pilot_config`."""
    temperatures_k = geometric(config.temperature_k, exchange.max_temperature_k, rungs)
    ladders = _Ladders(engine, pilot_config(config, exchange), exchange, temperatures_k, [seed])
    (chunk,) = ladders.chunk(ladders.warmed_up(peptide), 0)
    return choose_ladder(temperatures_k, chunk.energy_kT.mean(axis=0, dtype=np.float64), exchange.swap_rate)


class _Ladders:
    """Ladders of one peptide, one for each seed, as `engine` moves them."""

    def __init__(
        self,
        engine: LadderEngine,
        config: MDConfig,
        exchange: ExchangeConfig,
        temperatures_k: Sequence[float],
        seeds: Sequence[int],
    ) -> None:
        self.engine, self.config, self.temperatures_k, self.seeds = engine, config, tuple(temperatures_k), seeds
        self.steps_per_attempt = exchange.steps_per_attempt(config)
        self.attempts_per_frame = exchange.attempts_per_frame(config)

    def warmed_up(self, peptide: "Peptide") -> list[LadderChunk]:
        """Minimise, heat if asked for, and equilibrate with swaps: one frame of each ladder."""
        rungs, device = len(self.temperatures_k), self.engine.mass.device
        x = torch.from_numpy(minimised(peptide, self.config)).to(self.engine.mass)
        x = x.repeat(rungs * len(self.seeds), 1, 1)
        normal = [
            torch.randn(x.shape[1:], generator=generator(seed, 0, _VELOCITIES, rung))
            for seed in self.seeds
            for rung in range(rungs)
        ]
        temperature = torch.tensor(self.temperatures_k).repeat(len(self.seeds))[:, None, None]
        v = (KB * temperature.to(x) / self.engine.mass[:, None]).sqrt() * torch.stack(normal).to(x)
        state, walkers = Replicas(x, v), torch.arange(rungs, device=device).repeat(len(self.seeds), 1)
        if self.config.hot_steps:
            hot = self.engine.dynamics(self.seeds, 0, [self.config.hot_temperature_k] * rungs)
            state = hot.advance(state, self.config.hot_steps)
        attempts = max(1, round(self.config.warmup_steps / self.steps_per_attempt))
        state, walked = self._walk(state, walkers, 0, frames=1, attempts_per_frame=attempts)
        walked = walked._replace(walkers=walked.walkers[-1:] * 0 + walkers.cpu())  # walkers are numbered from here on
        return self._chunks(state, walked, "the warm-up")

    def chunk(self, before: Sequence[LadderChunk], index: int) -> list[LadderChunk]:
        """Chunk `index` of each ladder, from what the one before ended with."""
        x, v = (
            torch.cat([torch.from_numpy(part) for part in parts]).to(self.engine.mass)
            for parts in ([b.positions_nm[-1] for b in before], [b.velocities for b in before])
        )
        walkers = torch.stack([torch.from_numpy(b.walkers[-1]) for b in before]).long().to(x.device)
        frames = self.config.frames_per_chunk
        state, walked = self._walk(
            Replicas(x, v), walkers, index + 1, frames=frames, attempts_per_frame=self.attempts_per_frame,
            first_attempt=index * frames * self.attempts_per_frame,
        )  # fmt: skip
        return self._chunks(state, walked, f"chunk {index}")

    def _walk(
        self, state: Replicas, walkers: Tensor, key: int, frames: int, attempts_per_frame: int, first_attempt: int = 0
    ) -> tuple[Replicas, Walk]:
        return walk(
            self.engine.dynamics(self.seeds, key, self.temperatures_k),
            state,
            walkers,
            torch.tensor(self.temperatures_k, dtype=torch.float64, device=walkers.device),
            [generator(seed, key, _SWAPS) for seed in self.seeds],
            frames=frames,
            attempts_per_frame=attempts_per_frame,
            steps_per_attempt=self.steps_per_attempt,
            first_attempt=first_attempt,
        )

    def _chunks(self, state: Replicas, walked: Walk, where: str) -> list[LadderChunk]:
        velocities = state.v.float().cpu().unflatten(0, (len(self.seeds), -1))
        if not (walked.positions_nm.isfinite().all() and velocities.isfinite().all()):
            raise RuntimeError(f"the dynamics failed in {where}: lower timestep_fs, or the highest temperature")
        return [
            LadderChunk(
                walked.positions_nm[:, i].numpy(),
                velocities[i].numpy(),
                walked.energy_kT[:, i].numpy(),
                walked.walkers[:, i].byte().numpy(),
            )
            for i in range(len(self.seeds))
        ]
