"""Ladders of replica exchange as tasks: the pilot that chooses the rungs, and batches of whole ladders."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray

from boltzray.molecules.batched.exchange import BatchedLadders
from boltzray.molecules.exchange_openmm import OpenMMLadders
from boltzray.molecules.ladder_choice import LadderChoice
from boltzray.molecules.ladder_dynamics import LadderEngine, choose_by_pilot, pilot_config, simulate_ladders
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.replica_exchange import ExchangeConfig, ladder_name
from boltzray.molecules.runs import MDConfig, Progress
from boltzray.molecules.storage import read_json

from ..runtime.actor_pool import fetch
from ..runtime.cluster import Cluster
from ..runtime.config import write_json
from ..runtime.cpu_affinity import own_core
from ..runtime.progress import progress, say
from .md_batches import LANES, Compile, MDBatch, compile_energy, compiles, single_precision

PILOTS = "ladders"  # folder below md/
OPENMM_PILOT_RUNGS = 8


def run_ladders(
    batch: MDBatch, engine: str, config: MDConfig, exchange: ExchangeConfig, time_ps: float, compilation: Compile
) -> Iterator[Progress | str]:
    """Simulate all ladders of a batch up to `time_ps`; yields progress after each chunk, and notes for the user."""
    peptide, temperatures_k = Peptide.from_pdb(batch[0].pdb), batch[0].temperatures_k
    ladders: LadderEngine
    if engine == "openmm":
        ladders = OpenMMLadders(peptide, config, own_core())
    else:
        energy = single_precision(peptide, config)
        if compiles(compilation, energy.n_atoms, config, time_ps):
            yield from compile_energy(energy, [peptide] * len(batch) * len(temperatures_k), compilation)
        ladders = BatchedLadders(energy, config)
    directories, seeds = [run.directory for run in batch], [run.seed for run in batch]
    yield from simulate_ladders(ladders, peptide, directories, config, exchange, temperatures_k, time_ps, seeds)


def choose_ladders(
    out: Path,
    pdbs: Mapping[str, str],
    engine: str,
    config: MDConfig,
    exchange: ExchangeConfig,
    compilation: Compile,
    resources: Cluster,
) -> dict[str, tuple[float, ...]]:
    """Temperatures of the ladder of each peptide: as given, or by a pilot, which is run once for a data folder.

    `pdbs`: the text of each peptide's PDB file. Raises: ValueError where a pilot had other settings.
    """
    if exchange.temperatures_k:
        return dict.fromkeys(pdbs, exchange.temperatures_k)
    paths = {name: out / "md" / PILOTS / f"{ladder_name(name, config)}.json" for name in pdbs}
    settings = {
        "max_temperature_k": exchange.max_temperature_k,
        "swap_rate": exchange.swap_rate,
        "pilot_ps": exchange.pilot_ps,
        "engine": engine,
    }
    missing = [name for name, path in paths.items() if not path.exists()]
    gpus = int(engine == "batched" and resources.gpus > 0)
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_pilot)
    running: dict[Any, str] = {task.remote(pdbs[n], engine, config, exchange, compilation): n for n in missing}
    if running:
        peptides = f"{len(running)} peptide{'s' * (len(running) != 1)}"
        say(f"choosing temperatures by a pilot of {exchange.pilot_ps:g} ps for {peptides}")
        with progress("choose temperatures", len(running)) as update:
            while running:
                (done,), _ = ray.wait(list(running), num_returns=1)
                name, ladder = running.pop(done), fetch(done)
                paths[name].parent.mkdir(parents=True, exist_ok=True)
                write_json(paths[name], {"settings": settings, **vars(ladder)})
                update(len(missing) - len(running), name)
    found = {}
    for name, path in paths.items():
        stored = read_json(path)
        if other := [
            f"{k} was {stored['settings'].get(k)} and is now {v}"
            for k, v in settings.items()
            if stored["settings"].get(k) != v
        ]:
            raise ValueError(f"{path} is of another pilot ({'; '.join(other)}): give another out=")
        found[name] = tuple(stored["temperatures_k"])
        rates = ", ".join(f"{100 * rate:.0f}" for rate in stored["expected_swap_rates"])
        say(f"{name}: {', '.join(f'{t:.0f}' for t in found[name])} K, neighbours to swap at {rates} %")
    return found


def _pilot(pdb: str, engine: str, config: MDConfig, exchange: ExchangeConfig, compilation: Compile) -> LadderChoice:
    """Choose the ladder of one peptide."""
    peptide, dynamics = Peptide.from_pdb(pdb), pilot_config(config, exchange)
    if engine == "openmm":
        ladders = OpenMMLadders(peptide, dynamics, own_core())
        return choose_by_pilot(ladders, peptide, config, exchange, seed=0, rungs=OPENMM_PILOT_RUNGS)
    energy = single_precision(peptide, config)
    if compiles(compilation, energy.n_atoms, dynamics, exchange.pilot_ps):
        list(compile_energy(energy, [peptide] * LANES, compilation))
    return choose_by_pilot(BatchedLadders(energy, dynamics), peptide, config, exchange, seed=0, rungs=LANES)
