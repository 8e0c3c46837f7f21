"""Replicas of peptides in batches, each brought forward by one worker process."""

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

LANES = 32  # replicas that a core moves in the time of one
PADDED = 8  # atoms; sizes are multiples of it
WORTH_COMPILING = 3e8  # pairs of atoms, steps and lanes: some 40 s of eager work; compiling takes 15 s and saves 30


@dataclass(frozen=True)
class MDReplica:
    """One replica of one peptide."""

    sequence: str
    replica: int
    pdb: str
    n_atoms: int
    directory: str
    seed: int


MDBatch = tuple[MDReplica, ...]  # of one peptide, or of several of one padded size


def batches(runs: Sequence[MDReplica], engine: str, mixed: bool, resources: Cluster) -> list[MDBatch]:
    """Replicas that are moved together, such that every core or GPU has some. The results do not depend on it."""
    if engine == "openmm":
        return [(run,) for run in runs]
    places = resources.gpus or resources.cpus
    size = -(-len(runs) // places)
    if not resources.gpus:
        size = LANES * -(-size // LANES)
    result: list[MDBatch] = []
    kind = padded_atoms if mixed else attrgetter("sequence")
    for _, group in groupby(sorted(runs, key=kind) if mixed else runs, key=kind):
        own = tuple(group)
        result += [own[low : low + size] for low in range(0, len(own), size)]
    return result


def padded_atoms(run: MDReplica) -> int:
    """The size to which a peptide is padded: one of few, so that many peptides fit together."""
    return PADDED * -(-run.n_atoms // PADDED)


def run_batch(
    runs: MDBatch, engine: str, mixed: bool, config: MDConfig, time_ps: float, compilation: Compile
) -> Iterator[Progress | str]:
    """Bring all up to `time_ps`; yields after each chunk, and what the user should know."""
    texts = list(dict.fromkeys(run.pdb for run in runs))
    peptides = [Peptide.from_pdb(text) for text in texts]
    if engine == "openmm":
        yield from run_openmm(peptides[0], runs[0].directory, config, time_ps, runs[0].seed, own_core())
        return
    torch.set_num_threads(1)
    keep_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    energies = [
        BatchedEnergy(peptide, config.temperature_k, forcefield=config.forcefield).to(device, torch.float32)
        for peptide in peptides
    ]
    owners = [texts.index(run.pdb) for run in runs]
    energy: BatchedEnergy | MixedEnergy = energies[0]
    if mixed:
        energy = MixedEnergy(energies, owners, padded_atoms(runs[0]))
    wanted = compiles("never" if mixed and compilation == "auto" else compilation, energy.n_atoms, config, time_ps)
    if wanted and not all(_finished(run, config, time_ps) for run in runs):
        yield from _compiled(energy, [peptides[owner] for owner in owners], compilation)
    directories, seeds = [run.directory for run in runs], [run.seed for run in runs]
    yield from run_batched(energy, [peptides[owner] for owner in owners], directories, config, time_ps, seeds)


def _finished(run: MDReplica, config: MDConfig, time_ps: float) -> bool:
    return all(chunk_path(Path(run.directory), i).exists() for i in range(config.chunks(time_ps)))


def compiles(compilation: Compile, n_atoms: int, config: MDConfig, time_ps: float) -> bool:
    """Whether to compile, by the length of the whole run: one that was stopped goes on with the same code."""
    if compilation != "auto":
        return compilation == "always"
    frames = config.chunks(time_ps) * config.frames_per_chunk
    steps = config.hot_steps + config.warmup_steps + frames * config.steps_per_frame
    return LANES * steps * n_atoms**2 > WORTH_COMPILING


def _compiled(energy: BatchedEnergy | MixedEnergy, peptides: Sequence[Peptide], compilation: Compile) -> Iterator[str]:
    """Compile; yields a note where that does not work. Raises: RuntimeError if it had to."""
    x = padded([peptide.positions for peptide in peptides], energy)
    if reason := energy.try_compile(x):
        if compilation == "always":
            raise RuntimeError(f"compile=always does not work here ({reason}): install a C++ compiler, or compile=auto")
        yield f"this runs at a fifth of the speed that it has with a C++ compiler ({reason})"
