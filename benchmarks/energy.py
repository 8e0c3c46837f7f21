"""Energies and dynamics a second: OpenMM on one pinned core against the batched force field. Prints Markdown.

    OMP_NUM_THREADS=1 python benchmarks/energy.py                       one core
    python benchmarks/energy.py --tables DIR                            keep tables and positions in DIR
    python benchmarks/energy.py --tables DIR --device cuda --batch 256 4096 65536    there, without OpenMM

What one conformation costs, counted by hand per ordered pair of atoms: 110 multiplications and additions, 4
divisions, 3 roots, one exponential, one logarithm (150 operations in all), and, compiled, 7 arrays written and
read about twice (80 bytes). So AA is 0.08 Mflop and 40 kB, ARIP 0.7 Mflop and 0.4 MB, and the floor of a machine
is what its vector units and its cache make of that; nothing has to come from main memory but 276 bytes for AA.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from molecules import BatchedEnergy
from molecules.batched_dynamics import Replicas, langevin_step, thermal_velocities

PEPTIDES = ("AA", "ARIP", "ACDEFGHI")
OPERATIONS_PER_PAIR, BYTES_PER_PAIR = 150, 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peptides", nargs="+", default=PEPTIDES)
    parser.add_argument("--batch", nargs="+", type=int, default=[32, 512])
    parser.add_argument("--seconds", type=float, default=0.6, help="of each measurement")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tables", type=Path, help="folder with tables and positions, written where missing")
    arguments = parser.parse_args()
    print(
        "| peptide | atoms | engine | batch | energy/s | energy + gradient/s | × OpenMM | Gflop/s | dynamics steps/s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for sequence in arguments.peptides:
        energy, positions = prepare(sequence, arguments.tables)
        measure(sequence, energy.float().to(arguments.device), positions, arguments.batch, arguments.seconds)


def prepare(sequence: str, folder: Path | None) -> tuple[BatchedEnergy, np.ndarray]:
    """The energy, and positions (N, 3) in nm: from the folder, or made (and put there)."""
    if folder is not None and (folder / f"{sequence}.npy").exists():
        return BatchedEnergy.load(folder / f"{sequence}.npz"), np.load(folder / f"{sequence}.npy")
    import openmm

    from molecules import Peptide
    from molecules.energy import make_context
    from molecules.forcefield import create_system

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


def measure(sequence: str, energy: BatchedEnergy, positions: np.ndarray, batches: list[int], seconds: float) -> None:
    n, device = len(positions), energy.mass.device
    noise = np.random.default_rng(0).normal(size=(max(batches), n, 3))
    frames = (positions + 0.004 * noise).astype(np.float32)
    baseline = 0.0
    if importlib.util.find_spec("openmm"):
        baseline = openmm_row(sequence, frames[:100], positions, seconds)
    x = torch.from_numpy(frames).to(device)
    for engine in ("eager", "compiled"):
        if engine == "compiled":
            energy.compile()
        for batch in batches:
            part = x[:batch]
            plain = rate(lambda part=part: energy.evaluate(part, gradient=False), batch, seconds, device)
            both = rate(lambda part=part: energy.evaluate(part), batch, seconds, device)
            moves = dynamics_rate(energy, torch.from_numpy(positions).to(part).expand(batch, -1, -1), seconds)
            gain = f"{both / baseline:.1f}" if baseline else "–"
            flops = both * n * n * OPERATIONS_PER_PAIR / 1e9
            print(
                f"| {sequence} | {n} | {engine} | {batch} | {plain:,.0f} | {both:,.0f} | {gain} | {flops:.1f} "
                f"| {moves:,.0f} |",
                flush=True,
            )


def openmm_row(sequence: str, frames: np.ndarray, positions: np.ndarray, seconds: float) -> float:
    """Print OpenMM's row; returns its evaluations with gradient a second."""
    import openmm

    from molecules import OpenMMEnergy, Peptide
    from molecules.energy import current_core, make_context, pinned
    from molecules.forcefield import create_system

    peptide = Peptide.from_sequence(sequence)
    energy, cpu = OpenMMEnergy(peptide), torch.device("cpu")
    plain = rate(lambda: energy.evaluate(frames, gradient=False), len(frames), seconds, cpu)
    both = rate(lambda: energy.evaluate(frames), len(frames), seconds, cpu)
    with pinned(current_core()):
        integrator = openmm.LangevinMiddleIntegrator(310.0, 0.3, 0.001)
        context = make_context(create_system(peptide), integrator=integrator)
        context.setPositions(positions)
        context.setVelocitiesToTemperature(310.0)
        moves = rate(lambda: integrator.step(100), 100, seconds, cpu)
    print(
        f"| {sequence} | {len(positions)} | OpenMM, 1 thread, pinned | 1 | {plain:,.0f} | {both:,.0f} | 1 | – "
        f"| {moves:,.0f} |"
    )
    return both


def dynamics_rate(energy: BatchedEnergy, x: torch.Tensor, seconds: float) -> float:
    """Steps times replicas a second."""
    generator = torch.Generator(x.device).manual_seed(0)
    step = langevin_step(energy, timestep_fs=1.0, friction_per_ps=0.3)
    state = Replicas(x, thermal_velocities(energy, x, generator))

    def ten_steps() -> None:
        nonlocal state
        for _ in range(10):
            state = step(state, generator)

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
