"""Replicas of peptides in batches, each simulated by one worker process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Literal

import torch

from boltzray.molecules.batched.dynamics import padded
from boltzray.molecules.batched.dynamics import simulate as run_batched
from boltzray.molecules.batched.energy import BatchedEnergy
from boltzray.molecules.batched.mixture import MixedEnergy
from boltzray.molecules.dynamics import simulate as run_openmm
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.runs import MDConfig, Progress, chunk_path

from ..runtime.cluster import Cluster
from ..runtime.cpu_affinity import keep_memory, own_core

Compile = Literal["auto", "always", "never"]

LANES = 32  # replicas that a core moves in the time of one: `boltzray.molecules.batched.tiles` fills up to them
PADDED = 8  # atoms; sizes are multiples of it
WORTH_COMPILING = 3e8  # pairs of atoms, steps and lanes: some 40 s of eager work; compiling takes 15 s and saves 30


@dataclass(frozen=True)
class MDReplica:
    """One run of one peptide: a replica, or a ladder of them at `temperatures_k`."""

    sequence: str
    replica: int
    pdb: str
    n_atoms: int
    directory: str
    seed: int
    temperatures_k: tuple[float, ...] = ()

    @property
    def rows(self) -> int:
        """Conformations that move at once."""
        return max(1, len(self.temperatures_k))


MDBatch = tuple[MDReplica, ...]  # of one peptide, or of several of one padded size


def batch_replicas(replicas: Sequence[MDReplica], engine: str, mixed: bool, resources: Cluster) -> list[MDBatch]:
    """Batch the replicas such that every core or GPU has some. The results do not depend on it."""
    if engine == "openmm":
        return [(replica,) for replica in replicas]
    rows = -(-sum(replica.rows for replica in replicas) // (resources.gpus or resources.cpus))
    if not resources.gpus:
        rows = LANES * -(-rows // LANES)
    result: list[MDBatch] = []
    kind = padded_atoms if mixed else attrgetter("sequence")
    for _, group in groupby(sorted(replicas, key=kind) if mixed else replicas, key=kind):
        own = tuple(group)
        size = max(1, rows // own[0].rows)
        result += [own[low : low + size] for low in range(0, len(own), size)]
    return result


def padded_atoms(replica: MDReplica) -> int:
    """Number of atoms to which a peptide is padded: one of few, so that many peptides fit together."""
    return PADDED * -(-replica.n_atoms // PADDED)


def run_batch(
    replicas: MDBatch, engine: str, mixed: bool, config: MDConfig, time_ps: float, compilation: Compile
) -> Iterator[Progress | str]:
    """Simulate all replicas up to `time_ps`; yields the progress after each chunk, and notes for the user."""
    texts = list(dict.fromkeys(replica.pdb for replica in replicas))
    peptides = [Peptide.from_pdb(text) for text in texts]
    if engine == "openmm":
        yield from run_openmm(peptides[0], replicas[0].directory, config, time_ps, replicas[0].seed, own_core())
        return
    energies = [single_precision(peptide, config) for peptide in peptides]
    owners = [texts.index(replica.pdb) for replica in replicas]
    energy: BatchedEnergy | MixedEnergy = energies[0]
    if mixed:
        energy = MixedEnergy(energies, owners, padded_atoms(replicas[0]))
    wanted = compiles("never" if mixed and compilation == "auto" else compilation, energy.n_atoms, config, time_ps)
    if wanted and not all(_finished(replica, config, time_ps) for replica in replicas):
        yield from compile_energy(energy, [peptides[owner] for owner in owners], compilation)
    directories, seeds = [replica.directory for replica in replicas], [replica.seed for replica in replicas]
    yield from run_batched(energy, [peptides[owner] for owner in owners], directories, config, time_ps, seeds)


def single_precision(peptide: Peptide, config: MDConfig) -> BatchedEnergy:
    """Energy for the dynamics of this process, which takes one core, or a GPU."""
    torch.set_num_threads(1)
    keep_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    energy = BatchedEnergy(
        peptide, config.temperature_k, forcefield=config.forcefield, hydrogen_mass_da=config.hydrogen_mass_da
    )
    return energy.to(device, torch.float32)


def _finished(replica: MDReplica, config: MDConfig, time_ps: float) -> bool:
    return all(chunk_path(Path(replica.directory), i).exists() for i in range(config.chunks(time_ps)))


def compiles(compilation: Compile, n_atoms: int, config: MDConfig, time_ps: float) -> bool:
    """Decide by the length of the whole run, not of its rest: a stopped run goes on with the same code."""
    if compilation != "auto":
        return compilation == "always"
    frames = config.chunks(time_ps) * config.frames_per_chunk
    steps = config.hot_steps + config.warmup_steps + frames * config.steps_per_frame
    return LANES * steps * n_atoms**2 > WORTH_COMPILING


def compile_energy(
    energy: BatchedEnergy | MixedEnergy, peptides: Sequence[Peptide], compilation: Compile
) -> Iterator[str]:
    """Compile; yields a note where that does not work. Raises: RuntimeError if it had to."""
    x = padded([peptide.positions for peptide in peptides], energy)
    if reason := energy.try_compile(x):
        if compilation == "always":
            raise RuntimeError(f"compile=always does not work here ({reason}): install a C++ compiler, or compile=auto")
        yield f"this runs at a fifth of the speed that it has with a C++ compiler ({reason})"
