"""Ladders of replica exchange moved by OpenMM on one core, for any force field."""

from collections.abc import Sequence

import numpy as np
import openmm
import torch
from torch import Tensor

from .batched.dynamics import Replicas
from .constants import KB
from .dynamics import langevin_context
from .energy import current_core, pinned
from .forcefield import create_system
from .peptide import Peptide
from .runs import MDConfig, warming


class OpenMMRows:
    """Langevin dynamics of rows, a Context each. Shape: rows (B, N, 3)."""

    def __init__(self, contexts: Sequence[openmm.Context], kt: float, core: int | None) -> None:
        self._contexts, self._kt, self._core = contexts, kt, core

    def advance(self, state: Replicas, steps: int) -> Replicas:
        """Move all rows on; one that diverges ends up with NaN."""
        moved: list[tuple[np.ndarray, np.ndarray]] = []
        with pinned(self._core):
            for context, x, v in zip(self._contexts, *state, strict=True):
                try:
                    context.setPositions(x.numpy())
                    context.setVelocities(v.numpy())
                    context.getIntegrator().step(steps)
                except openmm.OpenMMException:
                    moved.append((np.full(x.shape, np.nan), np.full(x.shape, np.nan)))
                    continue
                found = context.getState(positions=True, velocities=True)
                moved.append((found.getPositions(asNumpy=True)._value, found.getVelocities(asNumpy=True)._value))
        return Replicas(*(torch.from_numpy(np.stack(part)) for part in zip(*moved, strict=True)))

    def energy(self, x_nm: Tensor) -> Tensor:
        """Potential energy (B,) in kT of the lowest rung; NaN where the dynamics diverged."""
        energies = []
        with pinned(self._core):
            for context, x in zip(self._contexts, x_nm, strict=True):
                if not x.isfinite().all():
                    energies.append(np.nan)
                    continue
                context.setPositions(x.numpy())
                energies.append(context.getState(energy=True).getPotentialEnergy()._value / self._kt)
        return torch.tensor(energies, dtype=torch.float64)


class OpenMMLadders:
    """Engine of `simulate_ladders` with OpenMM's CPU platform on one core."""

    name = "openmm"

    def __init__(self, peptide: Peptide, config: MDConfig, core: int | None = None) -> None:
        self._system, self._config = create_system(peptide, config.forcefield, config.hydrogen_mass_da), config
        self._core = current_core() if core is None else core
        masses = [self._system.getParticleMass(i)._value for i in range(self._system.getNumParticles())]
        self.mass = torch.tensor(masses, dtype=torch.float64)
        self.versions = {"openmm": openmm.Platform.getOpenMMVersion()}

    def dynamics(self, seeds: Sequence[int], key: int, temperatures_k: Sequence[float]) -> OpenMMRows:
        """See `LadderEngine`."""
        config = self._config if key else warming(self._config)
        with pinned(self._core):
            contexts = [
                langevin_context(self._system, config, (key, rung), seed, temperature_k=temperature_k)[0]
                for seed in seeds
                for rung, temperature_k in enumerate(temperatures_k)
            ]
        return OpenMMRows(contexts, KB * self._config.temperature_k, self._core)
