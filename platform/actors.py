"""What holds a flow: a plain class, made into Ray actors at the end of the file."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

import models
from models.flow import Flow
from molecules.energy import EnergyBatch
from molecules.peptide import Peptide
from samplers import Endpoints, Move, MoveInfo, Particles, evaluate_particles, gather_block, move_block
from samplers.com import com_log_density
from samplers.rng import Stage, generator

from .cluster import Cluster
from .energies import Energies, EnergyActors, EnergyServer


@dataclass(frozen=True, kw_only=True)
class ActorsConfig:
    """How many hold a flow, how many an energy. 0: one flow a GPU, or a core; one energy a core."""

    flow_replicas: int = 0
    energy_actors: int = 0

    def __post_init__(self) -> None:
        if min(self.flow_replicas, self.energy_actors) < 0:
            raise ValueError("flow_replicas and energy_actors cannot be negative: 0 stands for automatic")


@dataclass(frozen=True, kw_only=True)
class Target:
    """The density to sample: a peptide at a temperature, and the law of its centre of mass."""

    pdb: str
    temperature_k: float
    com: Any = "gaussian"

    def log_density(self, x: Tensor, energy: EnergyBatch, scale_nm: float) -> tuple[Tensor, Tensor | None, Tensor]:
        """log π̃, its gradient and ok, in normalised coordinates, from energies at scale_nm · x.

        Shape: x (B, N, 3) → (B,), (B, N, 3) or None, (B,) bool.
        """
        com, com_gradient = com_log_density(x, self.com)
        log_p = com - torch.from_numpy(energy.energy)
        gradient = None
        if energy.gradient is not None:
            gradient = com_gradient - scale_nm * torch.from_numpy(energy.gradient)
        return log_p, gradient, torch.from_numpy(energy.ok)


class FlowServer:
    """A flow conditioned on one peptide; its energies come from elsewhere.

    One thread: the result must not depend on how many a machine has, and there are as many replicas as cores.
    """

    def __init__(self, checkpoint: str, target: Target, energies: Energies) -> None:
        torch.set_num_threads(1)
        self.flow: Flow = models.load(checkpoint).requires_grad_(False)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.flow.to(self.device)
        self.target, self.energies = target, energies
        self.peptide = Peptide.from_pdb(target.pdb)
        self.conditioning = self.flow.condition(self.peptide)

    def ready(self) -> bool:
        return True

    def draw(self, seed: int, block: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Block `block` of proposals: x (n, N, 3) normalised float32, and the log q of each from the same pass."""
        noise = generator(seed, Stage.PROPOSE, 0, block).standard_normal((n, self.peptide.n_atoms, 3), np.float32)
        x, log_q = self.flow.push(torch.from_numpy(noise).to(self.device), self.conditioning)
        return x.cpu().numpy(), log_q.double().cpu().numpy()

    def weigh(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log π̃ (B,) and energies (B,) in kT of proposals."""
        energy = self.energies.collect(self.energies.ask(self._nm(x), gradient=False))
        log_p, _, _ = self.target.log_density(torch.tensor(x), energy, self.flow.scale_nm)
        return log_p.numpy(), energy.energy

    def start(self, x: np.ndarray) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Proposals → particles with densities and gradients; and the scalars that the driver needs."""
        return self._out(evaluate_particles(torch.tensor(x), self.evaluate))

    def move(
        self, arrays: Mapping[str, np.ndarray], order: Move, seed: int, index: int
    ) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray, MoveInfo]]:
        """Move one block."""
        particles, info = move_block(Particles.from_arrays(arrays), self.evaluate, order, seed, index)
        moved, scalars = self._out(particles)
        return moved, (*scalars, info)

    def gather(
        self,
        ancestors: np.ndarray,
        block_size: int,
        indices: Sequence[int],
        *blocks: Mapping[str, np.ndarray],
    ) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """The block of particles `ancestors`, out of those `blocks` numbered `indices`."""
        sources = {i: Particles.from_arrays(b) for i, b in zip(indices, blocks, strict=True)}
        return self._out(gather_block(sources, ancestors, block_size))

    def evaluate(self, x: Tensor) -> Endpoints:
        """Both ends of the path; the energies are computed elsewhere while this computes log q."""
        asked = self.energies.ask(self._nm(x.numpy()), gradient=True)
        log_q, grad_q = models.log_prob_and_gradient(self.flow, x.to(self.device), self.conditioning)
        log_p, grad_p, ok = self.target.log_density(x, self.energies.collect(asked), self.flow.scale_nm)
        return Endpoints(log_q.cpu().double(), log_p, grad_q.cpu(), grad_p, ok)

    def _nm(self, x: np.ndarray) -> np.ndarray:
        return x.astype(np.float64) * self.flow.scale_nm

    @staticmethod
    def _out(particles: Particles) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        arrays = particles.to_arrays()
        return arrays, (arrays["log_q"], arrays["log_p"])


def start_actors(
    checkpoint: Path, target: Target, config: ActorsConfig, resources: Cluster
) -> tuple[list[Any], list[Any]]:
    """Flow and energy actors, ready; each restarts by itself when its process dies.

    Without GPUs both kinds share the cores, half a CPU each: a flow mostly waits while energies are computed.
    """
    share = 1.0 if resources.gpus else 0.5
    n_energy = config.energy_actors or max(1, resources.cpus - (resources.gpus > 0))
    n_flow = config.flow_replicas or (resources.gpus or resources.cpus)
    if resources.local and share * (n_energy + n_flow) > resources.cpus:
        raise ValueError(
            f"{n_flow} flow replicas and {n_energy} energy actors need {share * (n_energy + n_flow):g} CPUs, "
            f"the cluster has {resources.cpus}: lower actors.flow_replicas or actors.energy_actors"
        )
    restarts: dict[str, Any] = {"max_restarts": -1, "max_task_retries": 5}
    energy = ray.remote(num_cpus=share, **restarts)(EnergyServer)
    names = [f"energy-{uuid.uuid4().hex}" for _ in range(n_energy)]
    energies = [energy.options(name=name).remote(target.pdb, target.temperature_k) for name in names]
    gpus = 1 if resources.gpus else 0
    flow = ray.remote(FlowServer).options(num_cpus=0 if gpus else share, num_gpus=gpus, **restarts)
    flows = [flow.remote(str(checkpoint), target, EnergyActors(names)) for _ in range(n_flow)]
    everyone: list[Any] = [*energies, *flows]
    ray.get([actor.ready.remote() for actor in everyone])
    return flows, energies


def stop_actors(actors: Sequence[Any]) -> None:
    """End actors at once."""
    for actor in actors:
        ray.kill(actor)
