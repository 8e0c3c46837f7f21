"""Energies and dynamics a second: OpenMM on one pinned core against the batched force field. Prints Markdown.

    OMP_NUM_THREADS=1 python benchmarks/energy.py                       one core
    OMP_NUM_THREADS=1 python benchmarks/energy.py --actors 2 --out FILE and OpenMM actors; go on where FILE ends
    python benchmarks/energy.py --tables DIR                            keep tables and positions in DIR
    python benchmarks/energy.py --tables DIR --device cuda --batch 256 4096 65536    there, without OpenMM

What one conformation costs, counted by hand per ordered pair of atoms: 110 multiplications and additions, 4
divisions, 3 roots, one exponential, one logarithm (150 operations in all), and, compiled, 7 arrays written and
read about twice (80 bytes). So AA is 0.08 Mflop and 40 kB, ARIP 0.7 Mflop and 0.4 MB, and the floor of a machine
is what its vector units and its cache make of that; nothing has to come from main memory but 276 bytes for AA.
"""

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boltzray.molecules import BatchedEnergy
from boltzray.molecules.batched.dynamics import Noise, Replicas, generator, langevin_step, thermal_velocities

PEPTIDES = ("AA", "ARIP", "ACDEFGHI")
OPERATIONS_PER_PAIR, BYTES_PER_PAIR = 150, 80


Row = dict[str, object]
COLUMNS = ("peptide", "atoms", "engine", "batch", "energy/s", "energy + gradient/s", "replica-steps/s", "Gflop/s")


class Table:
    """Rows printed as they are measured, and kept in a file, where given, with those that were there."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: list[Row] = []
        print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
        for line in path.read_text().splitlines() if path and path.exists() else []:
            self._show(json.loads(line))

    def has(self, **key: object) -> bool:
        return any(all(row[name] == value for name, value in key.items()) for row in self.rows)

    def add(self, **row: object) -> None:
        if self.path:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        self._show(row)

    def _show(self, row: Row) -> None:
        self.rows.append(row)
        cells = (row.get(name, "–") for name in COLUMNS)
        text = (f"{c:,.0f}" if isinstance(c, float) else str(c) for c in cells)
        print("| " + " | ".join(text) + " |", flush=True)


ENGINES = ["eager", "eager float64", "compiled", "compiled float64"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peptides", nargs="+", default=PEPTIDES)
    parser.add_argument("--batch", nargs="+", type=int, default=[32, 512])
    parser.add_argument("--seconds", type=float, default=0.6, help="of each measurement")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=ENGINES)
    parser.add_argument("--actors", type=int, default=0, help="also measure this many OpenMM actors against one")
    parser.add_argument("--tables", type=Path, help="folder with tables and positions, written where missing")
    parser.add_argument("--out", type=Path, help="file of rows; those that it has are not measured again")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        show_floor()
    table = Table(arguments.out)
    for sequence in arguments.peptides:
        energy, positions = prepare(sequence, arguments.tables)
        if importlib.util.find_spec("openmm") and arguments.device == "cpu":
            measure_openmm(table, sequence, positions, arguments.seconds)
            if arguments.actors:
                measure_actors(table, sequence, positions, arguments.actors, arguments.seconds)
        for engine in arguments.engines:
            energy.to(torch.float64 if "float64" in engine else torch.float32).to(arguments.device)
            energy.compiled = engine.startswith("compiled")
            measure_batched(table, sequence, engine, energy, positions, arguments.batch, arguments.seconds)


def show_floor() -> None:
    """Print the rates that one thread of this machine can reach at most, and what they mean for one conformation."""
    a, b = torch.rand(512, 512), torch.rand(2**15)
    cpu = torch.device("cpu")
    flops = rate(lambda: a @ a, 2 * 512**3, 0.3, cpu)
    moved = rate(lambda: torch.add(b, 1.0, out=b), 2 * b.numel() * 4, 0.3, cpu)
    print(f"one thread, float32: {flops / 1e9:.0f} Gflop/s in a product, {moved / 1e9:.0f} GB/s in the cache", end="; ")
    limits = [f"{n} atoms {min(flops / OPERATIONS_PER_PAIR, moved / BYTES_PER_PAIR) / n**2:,.0f}/s" for n in (23, 70)]
    print(f"so at most, energy and gradient: {', '.join(limits)}\n")


def prepare(sequence: str, folder: Path | None) -> tuple[BatchedEnergy, np.ndarray]:
    """The energy, and positions (N, 3) in nm: from the folder, or made (and put there)."""
    if folder is not None and (folder / f"{sequence}.npy").exists():
        return BatchedEnergy.load(folder / f"{sequence}.npz"), np.load(folder / f"{sequence}.npy")
    import openmm

    from boltzray.molecules import Peptide
    from boltzray.molecules.energy import make_context
    from boltzray.molecules.forcefield import create_system

    peptide = Peptide.from_sequence(sequence)
    context = make_context(create_system(peptide))
    context.setPositions(peptide.positions)
    openmm.LocalEnergyMinimizer.minimize(context)
    positions = context.getState(positions=True).getPositions(asNumpy=True)._value
    energy = BatchedEnergy(peptide)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        energy.save(folder / f"{sequence}.npz")
        np.save(folder / f"{sequence}.npy", positions)
    return energy, positions


def shaken(positions: np.ndarray, count: int) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(count, *positions.shape))
    return (positions + 0.004 * noise).astype(np.float32)


def measure_batched(
    table: Table,
    sequence: str,
    engine: str,
    energy: BatchedEnergy,
    positions: np.ndarray,
    batches: list[int],
    seconds: float,
) -> None:
    """A row for each batch size."""
    n, device = len(positions), energy.mass.device
    name = engine if device.type == "cpu" else f"{engine}, {torch.cuda.get_device_name(device)}"
    for batch in batches:
        if table.has(peptide=sequence, engine=name, batch=batch):
            continue
        x = torch.from_numpy(shaken(positions, batch)).to(energy.mass)
        both = rate(lambda x=x: energy.evaluate(x), batch, seconds, device)
        table.add(
            **{
                "peptide": sequence,
                "atoms": n,
                "engine": name,
                "batch": batch,
                "energy/s": rate(lambda x=x: energy.evaluate(x, gradient=False), batch, seconds, device),
                "energy + gradient/s": both,
                "replica-steps/s": dynamics_rate(energy, x, seconds),
                "Gflop/s": both * n * n * OPERATIONS_PER_PAIR / 1e9,
            }
        )


def measure_openmm(table: Table, sequence: str, positions: np.ndarray, seconds: float) -> None:
    """One context with all threads, and one pinned to a core."""
    import openmm

    from boltzray.molecules import OpenMMEnergy, Peptide
    from boltzray.molecules.energy import current_core, make_context, pinned
    from boltzray.molecules.forcefield import create_system

    peptide, frames, cpu = Peptide.from_sequence(sequence), shaken(positions, 100), torch.device("cpu")
    system = create_system(peptide)
    if not table.has(peptide=sequence, engine="OpenMM, all threads"):
        platform = openmm.Platform.getPlatformByName("CPU")
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)

        def all_threads(gradient: bool) -> None:
            for frame in frames:
                context.setPositions(frame)
                state = context.getState(energy=True, forces=gradient)
                _ = state.getForces(asNumpy=True) if gradient else state.getPotentialEnergy()

        add_openmm(table, sequence, len(positions), "OpenMM, all threads", all_threads, len(frames), seconds)
    if not table.has(peptide=sequence, engine="OpenMM, pinned"):
        energy = OpenMMEnergy(peptide)
        with pinned(current_core()):
            integrator = openmm.LangevinMiddleIntegrator(310.0, 0.3, 0.001)
            context = make_context(system, integrator=integrator)
            context.setPositions(positions)
            context.setVelocitiesToTemperature(310.0)
            moves = rate(lambda: integrator.step(100), 100, seconds, cpu)

        def one_core(gradient: bool) -> None:
            energy.evaluate(frames, gradient)

        add_openmm(table, sequence, len(positions), "OpenMM, pinned", one_core, len(frames), seconds, moves)


def measure_actors(table: Table, sequence: str, positions: np.ndarray, count: int, seconds: float) -> None:
    """Measure one actor and `count` of them, each with a core of its own, on the same conformations."""
    from boltzray.runtime.environment import prepare

    prepare()
    import ray

    from boltzray.molecules import Peptide
    from boltzray.runtime.actor_pool import run_on
    from boltzray.runtime.cluster import ClusterConfig, cluster
    from boltzray.sampling.energy_actors import Molecule, start_servers

    molecule, frames = Molecule(Peptide.from_sequence(sequence).to_pdb()), shaken(positions, 4096)
    for actors in (1, count):
        name = f"OpenMM, {actors} actors"
        if table.has(peptide=sequence, engine=name):
            continue
        with cluster(ClusterConfig(num_cpus=count)):
            _, servers = start_servers(molecule, actors, num_cpus=1)
            parts = [ray.put(part) for part in np.array_split(frames, len(frames) // 256)]

            def evaluate(gradient: bool, servers: list[Any] = servers, parts: list[Any] = parts) -> None:
                run_on(servers, [lambda actor, x=part: actor.evaluate.remote(x, gradient) for part in parts])

            add_openmm(table, sequence, len(positions), name, evaluate, len(frames), seconds)
            for server in servers:
                ray.kill(server)


def add_openmm(
    table: Table,
    sequence: str,
    atoms: int,
    engine: str,
    evaluate: Callable[[bool], None],
    count: int,
    seconds: float,
    moves: float | None = None,
) -> None:
    cpu = torch.device("cpu")
    row: Row = {"peptide": sequence, "atoms": atoms, "engine": engine, "batch": count}
    row["energy/s"] = rate(lambda: evaluate(False), count, seconds, cpu)
    row["energy + gradient/s"] = rate(lambda: evaluate(True), count, seconds, cpu)
    table.add(**row, **({"replica-steps/s": moves} if moves else {}))


def dynamics_rate(energy: BatchedEnergy, x: torch.Tensor, seconds: float) -> float:
    """Steps times replicas a second, with a noise stream for each replica."""
    step = langevin_step(energy, timestep_fs=1.0, friction_per_ps=0.3)
    noise = Noise([generator(seed, 0) for seed in range(len(x))], x)
    state = Replicas(x, thermal_velocities(energy, noise.draw(1)[0]))

    def ten_steps() -> None:
        nonlocal state
        for drawn in noise.draw(10):
            state = step(state, drawn)

    return rate(ten_steps, 10 * len(x), seconds, x.device)


def rate(call: Callable[[], object], count: int, seconds: float, device: torch.device) -> float:
    """`count` per call and second: the best of three, since other processes can only slow it down."""
    call()
    best = 0.0
    for _ in range(3):
        began, calls = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < seconds / 3 or not calls:
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            calls += 1
        best = max(best, calls * count / spent)
    return best


if __name__ == "__main__":
    main()
