"""What holds a flow: a plain class, made into Ray actors at the end of the file."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from torch import Tensor

from boltzray import models
from boltzray.models.conditioning import Precision
from boltzray.models.flow import Flow
from boltzray.molecules.energy import EnergyBatch
from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD
from boltzray.molecules.peptide import Peptide
from boltzray.samplers import Endpoints, Move, MoveInfo, Particles, evaluate_particles, gather_block, move_block
from boltzray.samplers.com import CenterOfMass, com_log_density
from boltzray.samplers.rng import Stage, generator

from ..runtime.actor_pool import IN_FLIGHT
from ..runtime.cluster import Cluster
from ..runtime.progress import say
from ..runtime.telemetry import count
from .energy_actors import BatchedEnergies, Energies, EnergyActors, EnergyConfig, Molecule, start_servers


@dataclass(frozen=True, kw_only=True)
class ActorsConfig:
    """How many hold a flow, how many an energy (of OpenMM). 0: one flow a GPU, or a core; one energy a core."""

    flow_replicas: int = 0
    energy_actors: int = 0

    def __post_init__(self) -> None:
        if min(self.flow_replicas, self.energy_actors) < 0:
            raise ValueError("flow_replicas and energy_actors cannot be negative: 0 stands for automatic")


PATIENCE_S = 30.0  # before a wait for actors is worth a word
DEFAULT_TRAINED_AT_K = 310.0  # of the public data and weights, which do not record it


def trained_at_k(checkpoint: Path) -> float:
    """Temperature of the data that a flow was trained on."""
    if not checkpoint.is_dir():
        return DEFAULT_TRAINED_AT_K
    return float(models.checkpoint.describe(checkpoint)["provenance"].get("temperature_k", DEFAULT_TRAINED_AT_K))


@dataclass(frozen=True, kw_only=True)
class Target:
    """The density to sample: a peptide at a temperature, and the law of its centre of mass; and how draws are made.

    The flow is drawn from at the same temperature: its latents, and the centre of mass, get `temperature_ratio` times
    the variance that they had when it was trained at `trained_at_k`.
    """

    pdb: str
    temperature_k: float
    com: CenterOfMass = "gaussian"
    trained_at_k: float = DEFAULT_TRAINED_AT_K
    draw_precision: Precision = "float32"
    forcefield: str = DEFAULT_FORCEFIELD

    @property
    def temperature_ratio(self) -> float:
        return self.temperature_k / self.trained_at_k

    def log_density(self, x: Tensor, energy: EnergyBatch, scale_nm: float) -> tuple[Tensor, Tensor | None, Tensor]:
        """log π̃, its gradient and ok, in normalised coordinates, from energies at scale_nm · x.

        Shape: x (B, N, 3) → (B,), (B, N, 3) or None, (B,) bool.
        """
        com, com_gradient = com_log_density(x, self.com, self.temperature_ratio)
        log_p = com - torch.from_numpy(energy.energy)
        gradient = None
        if energy.gradient is not None:
            gradient = com_gradient - scale_nm * torch.from_numpy(energy.gradient)
        return log_p, gradient, torch.from_numpy(energy.ok)


class Origin(NamedTuple):
    """Where the particles of a resampled block are: their numbers, and those of the blocks that hold them."""

    ancestors: np.ndarray
    block_size: int
    blocks: list[int]


class BlockServer(ABC):
    """Particles of SMC, a block at a time; pure functions of what they are given."""

    @abstractmethod
    def evaluate(self, x: Tensor) -> Endpoints:
        """Both ends of the path at x (B, N, 3), with gradients."""

    def ready(self) -> bool:
        return True

    def start(self, x: np.ndarray, n: int) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """The first `n` proposals → particles with densities and gradients; and the scalars that the driver needs."""
        return _out(evaluate_particles(torch.tensor(x[:n]), self.evaluate))

    def move(
        self, order: Move, seed: int, index: int, origin: Origin | None, *blocks: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray, MoveInfo]]:
        """Move block `index`: the one given or, after resampling, the one gathered from those given."""
        sources = [Particles.from_arrays(block) for block in blocks]
        start = gather_block(dict(zip(origin.blocks, sources, strict=True)), *origin[:2]) if origin else sources[0]
        particles, info = move_block(start, self.evaluate, order, seed, index)
        moved, scalars = _out(particles)
        count("boltzray_particles", len(scalars[0]) * order.n_moves, "smc")
        return moved, (*scalars, info)


def _out(particles: Particles) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    arrays = particles.to_arrays()
    return arrays, (arrays["log_q"], arrays["log_p"])


class FlowServer(BlockServer):
    """A flow conditioned on one peptide; its energies come from elsewhere.

    One thread a call: the result must not depend on how many a machine has, and there are as many replicas as cores.
    Two calls may be under way, so that the flow computes on one block while energies of another are awaited.
    """

    def __init__(self, checkpoint: str, target: Target, energies: Callable[[], Energies]) -> None:
        torch.set_num_threads(1)
        self._alone = Lock()  # on the flow, whose decoders have a memory
        self.flow: Flow = models.load(checkpoint).requires_grad_(False)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.flow.to(self.device)
        self.target, self.energies = target, energies()
        self.proposal_ratio = (
            target.temperature_ratio
        )  # of q; finetuning may draw hotter than the target that it weights to
        self.peptide = Peptide.from_pdb(target.pdb)
        self.conditioning = self.flow.condition(self.peptide)
        self.target_log_prob(
            self.peptide.positions[None] / self.flow.scale_nm
        )  # gets energies ready before two calls want them

    def draw(self, seed: int, block: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Block `block` of proposals: x (n, N, 3) normalised float32, and the log q of each from the same pass."""
        noise = generator(seed, Stage.PROPOSE, 0, block).standard_normal((n, self.peptide.n_atoms, 3), np.float32)
        z = torch.from_numpy(noise).to(self.device)
        with self._alone:
            x, log_q = self.flow.push(z, self.conditioning, self.target.draw_precision, self.proposal_ratio)
        count("boltzray_particles", n, "draw")
        return x.cpu().numpy(), log_q.double().cpu().numpy()

    def target_log_prob(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log π̃ (B,) and energies (B,) in kT of proposals."""
        energy = self._collect(self.energies.ask(self._nm(x), gradient=False))
        log_p, _, _ = self.target.log_density(torch.tensor(x), energy, self.flow.scale_nm)
        return log_p.numpy(), energy.energy

    def evaluate(self, x: Tensor) -> Endpoints:
        """Both ends of the path; the energies are computed elsewhere while this computes log q."""
        asked = self.energies.ask(self._nm(x.numpy()), gradient=True)
        with self._alone:
            here = x.to(self.device)
            log_q, grad_q = models.log_prob_and_gradient(self.flow, here, self.conditioning, self.proposal_ratio)
        log_p, grad_p, ok = self.target.log_density(x, self._collect(asked), self.flow.scale_nm)
        return Endpoints(log_q.cpu().double(), log_p, grad_q.cpu(), grad_p, ok)

    def _collect(self, asked: Any) -> EnergyBatch:
        return self.energies.collect(asked)

    def _nm(self, x: np.ndarray) -> np.ndarray:
        return x.astype(np.float64) * self.flow.scale_nm


class Actors(NamedTuple):
    """Started actors."""

    flows: list[Any]
    energies: list[Any]

    def stop(self) -> None:
        """End all at once."""
        for actor in [*self.flows, *self.energies]:
            ray.kill(actor)


def start_actors(
    checkpoint: Path,
    target: Target,
    config: ActorsConfig,
    energy: EnergyConfig,
    resources: Cluster,
    server: type[FlowServer] = FlowServer,
) -> Actors:
    """Flow and energy actors, ready; each restarts by itself when its process dies.

    A lost call to an energy is made again by Ray, one to a flow by `pool`: Ray would keep the history of every block.
    Without GPUs both kinds share the cores, half a CPU each: a flow mostly waits while energies are computed. Batched
    energies need no actors: each flow's process has its own.
    """
    n_energy = config.energy_actors or max(1, resources.cpus - (resources.gpus > 0))
    n_energy = n_energy if energy.engine == "openmm" else 0
    n_flow = config.flow_replicas or (resources.gpus or resources.cpus)
    share = 0.5 if n_energy and not resources.gpus else 1.0
    if resources.local and share * (n_energy + n_flow) > resources.cpus:
        raise ValueError(
            f"{n_flow} flow replicas and {n_energy} energy actors need {share * (n_energy + n_flow):g} CPUs, "
            f"the cluster has {resources.cpus}: lower actors.flow_replicas or actors.energy_actors"
        )
    # What makes the energies is small. An object in the store could be gone when an actor starts again.
    molecule = Molecule(target.pdb, target.temperature_k, target.forcefield)
    names, servers = start_servers(energy, n_energy, share)
    energies = partial(EnergyActors, names, molecule) if servers else partial(BatchedEnergies, molecule, energy)
    gpus = 1 if resources.gpus else 0
    resource = {"num_cpus": 0 if gpus else share, "num_gpus": gpus}
    at_once = IN_FLIGHT if n_energy else 1  # what computes its own energies has nothing to wait for
    flow = ray.remote(server).options(**resource, max_restarts=-1, max_concurrency=at_once)
    flows = [flow.remote(str(checkpoint), target, energies) for _ in range(n_flow)]
    everyone: list[Any] = [*servers, *flows]
    waiting = [actor.ready.remote() for actor in everyone]
    while ray.wait(waiting, num_returns=len(waiting), timeout=PATIENCE_S)[1]:
        free = ray.available_resources().get("CPU", 0)
        say(f"waiting for {len(everyone)} actors to start: {free:g} of {resources.cpus} CPUs are free")
    ray.get(waiting)
    return Actors(flows, servers)
