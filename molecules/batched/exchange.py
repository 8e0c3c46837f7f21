"""Temperature replica exchange of many ladders at once: Langevin dynamics of all rungs in one batch, swaps on tensors.

Rows of a batch are ladder after ladder, and in each rung after rung. A row stays at its temperature, with a random
stream of its own; configurations move. A ladder's chunk is a pure function of the one before, of the ladder's seed and
of the chunk's index, whichever ladders are computed beside it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from .dynamics import NOISE_STEPS, Noise, Replicas, engine_name, generator, langevin_step, versions
from .energy import BatchedEnergy

if TYPE_CHECKING:
    from ..runs import MDConfig


class Walk(NamedTuple):
    """Frames, energies and walkers of a stretch (F frames, E attempts to swap): see `LadderTrajectory`.

    Shape: positions_nm (F, L, R, N, 3), energy_kT (F, L, R), walkers (E, L, R).
    """

    positions_nm: Tensor
    energy_kT: Tensor
    walkers: Tensor


class Dynamics(Protocol):
    """Dynamics of all rows at their temperatures, with random numbers of their own. Shape: rows (B, N, 3)."""

    def advance(self, state: Replicas, steps: int) -> Replicas:
        """Move all rows on."""
        ...

    def energy(self, x_nm: Tensor) -> Tensor:
        """Potential energy (B,) in kT of the lowest rung."""
        ...


class LangevinRows:
    """Batched Langevin dynamics of rows at temperatures of their own (B,). Source: see `langevin_step`."""

    def __init__(
        self, energy: BatchedEnergy, config: "MDConfig", temperature_k: Tensor, streams: Sequence[torch.Generator]
    ) -> None:
        self._energy = energy
        of_rows = temperature_k.to(energy.mass)
        self._step = langevin_step(energy, config.timestep_fs, config.friction_per_ps, of_rows)
        self._noise = Noise(streams, energy.mass.new_empty(len(streams), energy.n_atoms, 3))

    def advance(self, state: Replicas, steps: int) -> Replicas:
        """Move all rows on."""
        for begin in range(0, steps, NOISE_STEPS):
            for noise in self._noise.draw(min(NOISE_STEPS, steps - begin)):
                state = self._step(state, noise)
        return state

    def energy(self, x_nm: Tensor) -> Tensor:
        """Potential energy (B,) in kT of the lowest rung."""
        return self._energy.unchecked(x_nm, gradient=False)[0]


class BatchedLadders:
    """Engine of `simulate_ladders` on tensors; `energy` is at the temperature of the lowest rung."""

    def __init__(self, energy: BatchedEnergy, config: "MDConfig") -> None:
        self._energy, self._config = energy, config
        self.mass, self.name, self.versions = energy.mass, engine_name(energy), versions(energy)

    def dynamics(self, seeds: Sequence[int], key: int, temperatures_k: Sequence[float]) -> Dynamics:
        """See `LadderEngine`."""
        from ..runs import warming

        streams = [generator(seed, key, rung) for seed in seeds for rung in range(len(temperatures_k))]
        of_rows = torch.tensor(temperatures_k, dtype=torch.float64).repeat(len(seeds))
        return LangevinRows(self._energy, self._config if key else warming(self._config), of_rows, streams)


def swap(
    state: Replicas, walkers: Tensor, energy_kT: Tensor, temperature_k: Tensor, attempt: int, uniform: Tensor
) -> tuple[Replicas, Tensor, Tensor]:
    """Exchange configurations of neighbouring rungs, rungs r and r + 1 of r ≡ attempt mod 2, by Metropolis.

    Velocities are rescaled to the rung that they come to. Returns state, walkers and energies.

    Shape: walkers, energy_kT (L, R), in kT of the lowest rung; temperature_k (R,); uniform (L, R − 1) in [0, 1).
    Source: Sugita & Okamoto 1999; alternating pairs: Okabe et al. 2001, Syed et al. 2022 (J. R. Stat. Soc. B 84, 321).
    """
    ladders, rungs = energy_kT.shape
    beta, u = temperature_k[0] / temperature_k, energy_kT.double()
    log_ratio = (beta[:-1] - beta[1:]) * (u[:, :-1] - u[:, 1:])
    turn = torch.arange(rungs - 1, device=u.device) % 2 == attempt % 2
    accepted = (torch.log1p(-uniform) < log_ratio) & turn  # 1 − uniform is in (0, 1]
    rung = torch.arange(rungs, device=u.device).repeat(ladders, 1)
    rung[:, :-1] += accepted.long()
    rung[:, 1:] -= accepted.long()
    row = (rung + rungs * torch.arange(ladders, device=u.device)[:, None]).flatten()
    scale = (temperature_k / temperature_k[rung]).sqrt().flatten()[:, None, None]
    moved = Replicas(state.x[row], state.v[row] * scale.to(state.v))
    return moved, walkers.gather(1, rung), energy_kT.gather(1, rung)


def walk(
    dynamics: Dynamics,
    state: Replicas,
    walkers: Tensor,
    temperature_k: Tensor,
    uniforms: Sequence[torch.Generator],
    *,
    frames: int,
    attempts_per_frame: int,
    steps_per_attempt: int,
    first_attempt: int = 0,
) -> tuple[Replicas, Walk]:
    """Advance all ladders, with attempts to swap in between, and keep what is reached each frame, on the CPU.

    `uniforms`: a stream of each ladder (L of them). Shape: state (L R, N, 3), walkers (L, R), temperature_k (R,).
    """
    rungs, kept, steps = len(temperature_k), [], []
    draws = frames * attempts_per_frame
    uniform = torch.stack([torch.rand(draws, rungs - 1, generator=g, dtype=torch.float64) for g in uniforms], 1)
    uniform = uniform.to(walkers.device)
    for attempt in range(draws):
        state = dynamics.advance(state, steps_per_attempt)
        energy = dynamics.energy(state.x).view(-1, rungs)
        state, walkers, energy = swap(state, walkers, energy, temperature_k, first_attempt + attempt, uniform[attempt])
        steps.append(walkers)
        if (attempt + 1) % attempts_per_frame == 0:
            kept.append((state.x.float().cpu(), energy.float().cpu()))
    x, energies = (torch.stack(part) for part in zip(*kept, strict=True))
    return state, Walk(x.unflatten(1, (-1, rungs)), energies, torch.stack(steps).cpu())
