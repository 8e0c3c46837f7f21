"""What holds an energy function: a plain class that actors are made of, and the client that asks them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import ray

from molecules.energy import EnergyBatch, OpenMMEnergy
from molecules.peptide import Peptide

from .cores import own_core


class EnergyServer:
    """Energies of one peptide."""

    def __init__(self, pdb: str, temperature_k: float) -> None:
        self.energy = OpenMMEnergy(Peptide.from_pdb(pdb), temperature_k, core=own_core())

    def ready(self) -> bool:
        return True

    def evaluate(self, x_nm: np.ndarray, gradient: bool = True) -> EnergyBatch:
        return self.energy.evaluate(x_nm, gradient)


class Energies(Protocol):
    """Where a flow's server has energies computed; it works on between the two calls."""

    def ask(self, x_nm: np.ndarray, *, gradient: bool) -> Any:
        """Begin to evaluate x (B, N, 3) in nm."""
        ...

    def collect(self, asked: Any) -> EnergyBatch:
        """The answer to `ask`."""
        ...


class EnergyActors:
    """Asks all `EnergyServer` actors, given by name, for a share of a batch each."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    @cached_property
    def actors(self) -> list[Any]:
        return [ray.get_actor(name) for name in self.names]

    def ask(self, x_nm: np.ndarray, *, gradient: bool) -> list[Any]:
        """See `Energies`."""
        parts = np.array_split(x_nm, len(self.actors))
        return [a.evaluate.remote(part, gradient) for a, part in zip(self.actors, parts, strict=True) if len(part)]

    def collect(self, asked: list[Any]) -> EnergyBatch:
        """See `Energies`."""
        parts: list[EnergyBatch] = ray.get(asked)
        gradients = [part.gradient for part in parts if part.gradient is not None]
        return EnergyBatch(
            np.concatenate([part.energy for part in parts]),
            np.concatenate(gradients) if gradients else None,
            np.concatenate([part.ok for part in parts]),
        )
