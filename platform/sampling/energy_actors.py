"""Where energies come from: OpenMM actors, or the batched force field in the process that asks."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
import ray
import torch

from boltzray.molecules.batched.energy import BatchedEnergy
from boltzray.molecules.energy import EnergyBatch, OpenMMEnergy
from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD
from boltzray.molecules.peptide import Peptide

from ..runtime.cpu_affinity import keep_memory, own_core
from ..runtime.telemetry import count

MAX_READY = 4  # molecules that a server has ready: an OpenMM context is some MB, tables of 177 atoms 3 MB
RESTARTS: dict[str, Any] = {"max_restarts": -1, "max_task_retries": 5}


@dataclass(frozen=True, kw_only=True)
class EnergyConfig:
    """Which code evaluates the force field.

    `precision` and `compile` are of batched: compiling takes a minute in each process, less when torch finds it in its
    cache, and needs a C++ compiler (Triton on a GPU), so it pays from some 10⁶ evaluations on.
    """

    engine: Literal["openmm", "batched"] = "batched"
    precision: Literal["float64", "float32"] = "float64"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.engine == "openmm" and (self.compile or self.precision != "float64"):
            raise ValueError("compile and precision are of engine=batched: leave them out, or choose that engine")


@dataclass(frozen=True)
class Molecule:
    """What has an energy: a structure in a force field, at a temperature that makes kT the unit."""

    pdb: str
    temperature_k: float = 310.0
    forcefield: str = DEFAULT_FORCEFIELD


def batched(molecule: Molecule, config: EnergyConfig, device: str = "cpu") -> BatchedEnergy:
    """The batched energy of a molecule, ready for use by this process.

    Raises: ValueError where it cannot be compiled, but should.
    """
    keep_memory()
    peptide = Peptide.from_pdb(molecule.pdb)
    energy = BatchedEnergy(peptide, molecule.temperature_k, forcefield=molecule.forcefield)
    energy.to(device, getattr(torch, config.precision))
    if config.compile and (reason := energy.try_compile(torch.from_numpy(peptide.positions)[None])):
        raise ValueError(f"energy.compile=true does not work here ({reason}): leave it false")
    return energy


def counted(batch: EnergyBatch, engine: str) -> EnergyBatch:
    """The same, seen by Ray's metrics."""
    count("boltzray_energies", len(batch.ok), engine)
    count("boltzray_failed_energies", int((~batch.ok).sum()), engine)
    return batch


class EnergyServer:
    """Energies of any molecule on one core; the last few stay ready."""

    def __init__(self, config: EnergyConfig) -> None:
        torch.set_num_threads(1)
        self.config = config
        self.function = lru_cache(MAX_READY)(self._make)

    def ready(self) -> bool:
        return True

    def evaluate(
        self, molecule: Molecule, x_nm: np.ndarray, gradient: bool = True, rows: tuple[int, int] | None = None
    ) -> EnergyBatch:
        """Energies of x (B, N, 3) in nm, or of the rows from … to of it."""
        low, high = rows or (0, len(x_nm))
        return counted(self.function(molecule)(x_nm[low:high], gradient), self.config.engine)

    def _make(self, molecule: Molecule) -> Callable[[np.ndarray, bool], EnergyBatch]:
        if self.config.engine == "batched":
            return batched(molecule, self.config).evaluate_arrays
        peptide = Peptide.from_pdb(molecule.pdb)
        return OpenMMEnergy(peptide, molecule.temperature_k, forcefield=molecule.forcefield, core=own_core()).evaluate


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

    def __init__(self, names: Sequence[str], molecule: Molecule) -> None:
        self.actors, self.molecule = [ray.get_actor(name) for name in names], molecule

    def ask(self, x_nm: np.ndarray, *, gradient: bool) -> list[Any]:
        """See `Energies`."""
        parts = np.array_split(x_nm, len(self.actors))
        return [
            actor.evaluate.remote(self.molecule, part, gradient)
            for i, (actor, part) in enumerate(zip(self.actors, parts, strict=True))
            if len(part) or not i
        ]

    def collect(self, asked: list[Any]) -> EnergyBatch:
        """See `Energies`."""
        return EnergyBatch.joined(ray.get(asked))


class BatchedEnergies:
    """Evaluates in the process that asks, on its GPU or on one core."""

    def __init__(self, molecule: Molecule, config: EnergyConfig) -> None:
        self.energy = batched(molecule, config, "cuda" if torch.cuda.is_available() else "cpu")

    def ask(self, x_nm: np.ndarray, *, gradient: bool) -> EnergyBatch:
        """See `Energies`."""
        return counted(self.energy.evaluate_arrays(x_nm, gradient), "batched")

    def collect(self, asked: EnergyBatch) -> EnergyBatch:
        """See `Energies`."""
        return asked


class LocalOpenMMEnergies:
    """Evaluates with OpenMM in the process that asks."""

    def __init__(self, molecule: Molecule, config: EnergyConfig) -> None:
        self.server, self.molecule = EnergyServer(config), molecule

    def ask(self, x_nm: np.ndarray, *, gradient: bool) -> EnergyBatch:
        """See `Energies`."""
        return self.server.evaluate(self.molecule, x_nm, gradient)

    def collect(self, asked: EnergyBatch) -> EnergyBatch:
        """See `Energies`."""
        return asked


def start_servers(config: EnergyConfig, count: int, num_cpus: float) -> tuple[list[str], list[Any]]:
    """Names and handles of `count` energy actors; each restarts by itself when its process dies."""
    names = [f"energy-{uuid.uuid4().hex}" for _ in range(count)]
    server = ray.remote(num_cpus=num_cpus, **RESTARTS)(EnergyServer)
    return names, [server.options(name=name).remote(config) for name in names]
