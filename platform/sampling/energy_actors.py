"""Energies for a flow: of OpenMM actors, or computed in the process that asks."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import torch

from boltzray.molecules.batched.energy import BatchedEnergy
from boltzray.molecules.energy import EnergyBatch, OpenMMEnergy, only_openmm
from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD
from boltzray.molecules.peptide import Peptide

from ..runtime.cpu_affinity import keep_memory, own_core
from ..runtime.telemetry import count

RESTARTS: dict[str, Any] = {"max_restarts": -1, "max_task_retries": 5}


@dataclass(frozen=True, kw_only=True)
class EnergyConfig:
    """Choice of the code that evaluates the force field.

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
    """A structure in a force field, at the temperature that makes kT the unit; as text, to be sent to actors."""

    pdb: str
    temperature_k: float = 310.0
    forcefield: str = DEFAULT_FORCEFIELD

    @property
    def peptide(self) -> Peptide:
        """The structure, parsed."""
        return Peptide.from_pdb(self.pdb)


def batched(
    peptide: Peptide,
    temperature_k: float,
    config: EnergyConfig,
    *,
    forcefield: str = DEFAULT_FORCEFIELD,
    device: str = "cpu",
) -> BatchedEnergy:
    """The batched energy of a peptide, ready for use by this process.

    Raises: ValueError where it cannot be compiled, but should.
    """
    keep_memory()
    energy = BatchedEnergy(peptide, temperature_k, forcefield=forcefield)
    energy.to(device, getattr(torch, config.precision))
    if config.compile and (reason := energy.try_compile(torch.from_numpy(peptide.positions)[None])):
        raise ValueError(f"energy.compile=true does not work here ({reason}): leave it false")
    return energy


Evaluate = Callable[[np.ndarray, bool], EnergyBatch]  # conformations (B, N, 3) in nm, and whether a gradient is wanted


def engine_note(peptide: Peptide, engine: str) -> str | None:
    """A note for the user where OpenMM stands in for the batched energy."""
    reason = only_openmm(peptide) if engine == "batched" else None
    return f"OpenMM computes the energies, one at a time: {reason.split(': use')[0]}" if reason else None


def evaluator(
    peptide: Peptide,
    temperature_k: float,
    config: EnergyConfig | None = None,
    *,
    forcefield: str = DEFAULT_FORCEFIELD,
    device: str = "cpu",
) -> tuple[Evaluate, str]:
    """A peptide's energy, ready for use by this process, and its engine.

    That is OpenMM's for a molecule with forces that the batched one does not know.
    """
    config = config or EnergyConfig()
    if config.engine == "openmm" or only_openmm(peptide):
        return OpenMMEnergy(peptide, temperature_k, forcefield=forcefield, core=own_core()).evaluate, "openmm"
    energy = batched(peptide, temperature_k, config, forcefield=forcefield, device=device)
    return energy.evaluate_arrays, "batched"


def openmm(molecule: Molecule) -> OpenMMEnergy:
    """OpenMM's energy of a molecule, on a core that no other worker of ours is pinned to."""
    return OpenMMEnergy(molecule.peptide, molecule.temperature_k, forcefield=molecule.forcefield, core=own_core())


def counted(batch: EnergyBatch, engine: str) -> EnergyBatch:
    """Return the batch, its energies added to Ray's metrics."""
    count("boltzray_energies", len(batch.ok), engine)
    count("boltzray_failed_energies", int((~batch.ok).sum()), engine)
    return batch


class Energies(Protocol):
    """Source of a flow server's energies; the server works on between the two calls."""

    def ask(self, x_nm: np.ndarray, *, gradient: bool) -> Any:
        """Begin to evaluate x (B, N, 3) in nm."""
        ...

    def collect(self, asked: Any) -> EnergyBatch:
        """Return the answer to `ask`."""
        ...


class LocalEnergies:
    """Evaluates in the process that asks: batched on its GPU or on one core, OpenMM on a core of its own."""

    def __init__(self, molecule: Molecule, config: EnergyConfig) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.evaluate, self.engine = evaluator(
            molecule.peptide, molecule.temperature_k, config, forcefield=molecule.forcefield, device=device
        )

    def ask(self, x_nm: np.ndarray, *, gradient: bool) -> EnergyBatch:
        """See `Energies`."""
        return counted(self.evaluate(x_nm, gradient), self.engine)

    def collect(self, asked: EnergyBatch) -> EnergyBatch:
        """See `Energies`."""
        return asked


class EnergyServer:
    """OpenMM's energies of one molecule, on one core: a plain class, made into actors by `start_servers`."""

    def __init__(self, molecule: Molecule) -> None:
        torch.set_num_threads(1)
        self.molecule = molecule

    def ready(self) -> bool:
        return True

    @cached_property
    def energy(self) -> OpenMMEnergy:
        """Made when it is first asked for: its error then answers that call, and does not end the actor."""
        return openmm(self.molecule)

    def evaluate(self, x_nm: np.ndarray, gradient: bool = True) -> EnergyBatch:
        """Energies of x (B, N, 3) in nm."""
        return counted(self.energy.evaluate(x_nm, gradient), "openmm")


class EnergyActors:
    """Asks `EnergyServer` actors, given by name, for a part of each batch."""

    def __init__(self, names: Sequence[str]) -> None:
        import ray  # not where energies are computed in the process that asks

        self.actors = [ray.get_actor(name) for name in names]

    def ask(self, x_nm: np.ndarray, *, gradient: bool) -> list[Any]:
        """See `Energies`."""
        parts = np.array_split(x_nm, len(self.actors))
        return [
            actor.evaluate.remote(part, gradient)
            for i, (actor, part) in enumerate(zip(self.actors, parts, strict=True))
            if len(part) or not i  # the first one answers for an empty batch, too
        ]

    def collect(self, asked: list[Any]) -> EnergyBatch:
        """See `Energies`."""
        import ray

        return EnergyBatch.joined(ray.get(asked))


def start_servers(molecule: Molecule, count: int, num_cpus: float) -> tuple[list[str], list[Any]]:
    """Names and handles of `count` energy actors; each restarts by itself when its process dies."""
    import ray

    names = [f"energy-{uuid.uuid4().hex}" for _ in range(count)]
    server = ray.remote(num_cpus=num_cpus, **RESTARTS)(EnergyServer)
    return names, [server.options(name=name).remote(molecule) for name in names]
