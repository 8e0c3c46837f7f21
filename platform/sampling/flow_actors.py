"""The flow server, a plain class, and how workers of it are started: threads of this process, or actors."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from boltzray import models
from boltzray.models.flow import Flow
from boltzray.molecules.energy import EnergyBatch
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.planar_names import turned
from boltzray.samplers import Endpoints, Move, MoveInfo, Particles, evaluate_particles, gather_block, move_block
from boltzray.samplers.com import CenterOfMass
from boltzray.samplers.rng import Stage, generator

from ..runtime.cluster import Cluster, ClusterConfig, cluster, usable_cpus
from ..runtime.progress import say
from ..runtime.telemetry import count, with_ray
from ..runtime.workers import IN_FLIGHT, LocalWorkers, Workers
from .energy_actors import Energies, EnergyActors, EnergyConfig, LocalEnergies, Molecule, start_servers
from .target import Target


@dataclass(frozen=True, kw_only=True)
class ActorsConfig:
    """Numbers of flow actors and of energy actors (of OpenMM). 0: one flow a GPU, or a core; one energy a core.

    `in_process`: flows are threads of this process instead, each of which computes its own energies, and Ray is not
    started; the results are the same bits. `auto`: where no cluster is named, and the work is at most `SMALL`.
    """

    flow_replicas: int = 0
    energy_actors: int = 0
    in_process: bool | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if min(self.flow_replicas, self.energy_actors) < 0:
            raise ValueError("flow_replicas and energy_actors cannot be negative: 0 stands for automatic")


PATIENCE_S = 30.0  # of waiting for actors to start, after which a message says so
SMALL = 200_000  # energies: what takes minutes on a few cores. Ray takes half a minute to start and to end
ENERGIES_A_PARTICLE = 200  # of SMC, as adaptive HMC takes them


def runs_here(config: ActorsConfig, energies: int) -> bool:
    """Return True where work of so many energies is done in this process, without Ray."""
    if config.in_process != "auto":
        return config.in_process
    named = with_ray() or "RAY_ADDRESS" in os.environ
    return not named and energies <= SMALL and torch.cuda.device_count() <= 1


class Origin(NamedTuple):
    """Source rows of a resampled block, and the blocks that contain them."""

    ancestors: np.ndarray
    block_size: int
    blocks: list[int]


class BlockServer(ABC):
    """Particles of SMC, a block at a time; pure functions of what they are given."""

    @abstractmethod
    def evaluate(self, x: Tensor) -> Endpoints:
        """Evaluate both ends of the path at x (B, N, 3), with gradients."""

    def ready(self) -> bool:
        return True

    def start(self, x: np.ndarray) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Make particles, with densities and gradients, of proposals; and the driver's scalars."""
        return _out(evaluate_particles(torch.tensor(x), self.evaluate))

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

    def __init__(self, checkpoint: str, target: Target, energies: Callable[[Molecule], Energies]) -> None:
        torch.set_num_threads(1)
        self._alone = Lock()  # on the flow, whose decoders have a memory
        self.flow: Flow = models.load(checkpoint).requires_grad_(False)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.flow.to(self.device)
        self.target, self.energies = target, energies(target.molecule)
        self.proposal_ratio = target.temperature_ratio  # of q; finetuning may draw hotter than its target
        self.peptide = Peptide.from_pdb(target.pdb)
        self.conditioning = self.flow.condition(self.peptide)
        # Energies are made ready by the first call for them: now, before two calls at once would do it.
        self.target_log_prob(self.peptide.positions[None] / self.flow.scale_nm)

    def draw(self, seed: int, block: int, n: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Sample block `block` of proposals x (n, N, 3), normalised float32; log q, log π̃, energies in kT (n,) by name.

        log q is from the same pass. Of a flow over bins there is `center` (n, 3) as in `models.flow.Draw`, and log π̃
        lacks the term of the centre of mass: its spread is known when all draws are there (`Proposals`).
        """
        noise = self.flow.noise(generator(seed, Stage.PROPOSE, 0, block), n, self.peptide.n_atoms)
        with self._alone:
            drawn = self.flow.draw(
                torch.from_numpy(noise).to(self.device),
                self.conditioning,
                self.target.draw_precision,
                self.proposal_ratio,
            )
        count("boltzray_particles", n, "draw")
        x = drawn.x.cpu().numpy()
        log_p, energy = self.target_log_prob(x)
        scalars = {"log_q": drawn.log_q.double().cpu().numpy(), "log_p": log_p, "energy": energy}
        if drawn.center is not None and self.target.fits_center(self.flow):
            scalars["center"] = drawn.center.cpu().numpy()
        return x, scalars

    def target_log_prob(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Evaluate log π̃ (B,), as far as `draw` says, and energies (B,) in kT of proposals."""
        energy = self._collect(self.energies.ask(self._nm(x), gradient=False))
        com = "none" if self.target.fits_center(self.flow) else self.target.com
        log_p, _, _ = self.log_density(torch.tensor(x), energy, com)
        return log_p.numpy() - self.flow.log_covered(self.peptide.n_atoms), energy.energy

    def log_density(
        self, x: Tensor, energy: EnergyBatch, com: CenterOfMass | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """`Target.log_density` at x (B, N, 3), log π̃ = −∞ and not ok where a planar group is turned round.

        That is of a flow that names their atoms by place: such a conformation is a copy under other names.
        """
        log_p, gradient, ok = self.target.log_density(x, energy, self.flow.scale_nm, com)
        if self.flow.atom_order == "named":
            copies = torch.from_numpy(turned(self.peptide.planar_groups, x.numpy()))
            log_p, ok = torch.where(copies, -torch.inf, log_p), ok & ~copies
        return log_p, gradient, ok

    def evaluate(self, x: Tensor) -> Endpoints:
        """Evaluate both ends of the path; the energies are computed elsewhere while this computes log q."""
        asked = self.energies.ask(self._nm(x.numpy()), gradient=True)
        with self._alone:
            here = x.to(self.device)
            log_q, grad_q = models.log_prob_and_gradient(
                self.flow, here, self.conditioning, self.proposal_ratio, self.target.smc_precision
            )
        log_p, grad_p, ok = self.log_density(x, self._collect(asked))
        return Endpoints(log_q.cpu().double(), log_p, grad_q.cpu(), grad_p, ok)

    def _collect(self, asked: Any) -> EnergyBatch:
        return self.energies.collect(asked)

    def _nm(self, x: np.ndarray) -> np.ndarray:
        return x.astype(np.float64) * self.flow.scale_nm


@contextmanager
def flow_workers(
    checkpoint: Path,
    target: Target,
    config: ActorsConfig,
    energy: EnergyConfig,
    where: ClusterConfig,
    *,
    energies: int,
    server: type[FlowServer] = FlowServer,
) -> Iterator[Workers]:
    """Start servers of a flow for work of so many energies, and end them after the `with`: see `runs_here`.

    One line says what runs where.
    """
    if runs_here(config, energies):
        gpus = min(1, torch.cuda.device_count())
        count = config.flow_replicas or gpus or where.num_cpus or usable_cpus()
        why = f"at most {SMALL:,} energies; actors.in_process=false takes Ray" if config.in_process == "auto" else ""
        say(f"in this process, on {count} thread{'s' * (count > 1)}{f' ({why})' if why else ''}")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        make = partial(server, str(checkpoint), target, partial(LocalEnergies, config=energy))
        try:
            workers = LocalWorkers(make, count)
            try:
                yield workers
            finally:
                workers.close()
        finally:
            torch.set_num_threads(threads)
        return
    with cluster(where) as resources:
        say(f"on a Ray cluster of {resources.cpus} CPUs, {resources.gpus} GPUs")
        actors = start_actors(checkpoint, target, config, energy, resources, server)
        try:
            yield actors.workers
        finally:
            actors.stop()


class ActorResources(NamedTuple):
    """Numbers of actors, what each flow actor reserves by Ray's name of the resource, and the CPUs of each energy."""

    n_flow: int
    n_energy: int
    flow: dict[str, float]
    energy_cpus: float


def actor_resources(config: ActorsConfig, energy: EnergyConfig, resources: Cluster) -> ActorResources:
    """Decide how many actors there are on a cluster, and what each reserves.

    Batched energies need no actors: each flow's process has its own. Without GPUs both kinds have half a CPU each: a
    flow mostly waits while energies are computed.
    """
    n_energy = config.energy_actors or max(1, resources.cpus - (resources.gpus > 0))
    n_energy = n_energy if energy.engine == "openmm" else 0
    n_flow = config.flow_replicas or (resources.gpus or resources.cpus)
    cpus = 0.5 if n_energy and not resources.gpus else 1.0
    return ActorResources(n_flow, n_energy, {"GPU": 1.0} if resources.gpus else {"CPU": cpus}, cpus)


def _of_actors(names: list[str], _: Molecule) -> Energies:
    """The energies of actors, each of which has its molecule."""
    return EnergyActors(names)


class Actors(NamedTuple):
    """Started actors."""

    flows: list[Any]
    energies: list[Any]

    @property
    def workers(self) -> Workers:
        """The flows."""
        from ..runtime.actor_pool import RayWorkers

        return RayWorkers(self.flows)

    def stop(self) -> None:
        """End all at once."""
        import ray

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

    A lost call to an energy is made again by Ray, one to a flow by `actor_pool`: Ray would keep the history of every
    block.
    Raises: ValueError where a local cluster has fewer CPUs than they take.
    """
    import ray

    n_flow, n_energy, flow_resources, energy_cpus = actor_resources(config, energy, resources)
    cpus = n_flow * flow_resources.get("CPU", 0.0) + n_energy * energy_cpus
    if resources.local and cpus > resources.cpus:
        raise ValueError(
            f"{n_flow} flow replicas and {n_energy} energy actors need {cpus:g} CPUs, "
            f"the cluster has {resources.cpus}: lower actors.flow_replicas or actors.energy_actors"
        )
    # What makes the energies is small. An object in the store could be gone when an actor starts again.
    names, servers = start_servers(target.molecule, n_energy, energy_cpus)
    energies: Callable[[Molecule], Energies] = partial(LocalEnergies, config=energy)
    if servers:
        energies = partial(_of_actors, names)
    reserved = {"num_cpus": flow_resources.get("CPU", 0), "num_gpus": flow_resources.get("GPU", 0)}
    at_once = IN_FLIGHT if n_energy else 1  # a server that computes its own energies has nothing to wait for
    flow = ray.remote(server).options(**reserved, max_restarts=-1, max_concurrency=at_once)
    flows = [flow.remote(str(checkpoint), target, energies) for _ in range(n_flow)]
    everyone: list[Any] = [*servers, *flows]
    say(f"starting {len(everyone)} actor{'s' * (len(everyone) > 1)}")
    waiting = [actor.ready.remote() for actor in everyone]
    while ray.wait(waiting, num_returns=len(waiting), timeout=PATIENCE_S)[1]:
        free = ray.available_resources().get("CPU", 0)
        say(f"waiting for {len(everyone)} actors to start: {free:g} of {resources.cpus} CPUs are free")
    ray.get(waiting)
    return Actors(flows, servers)
