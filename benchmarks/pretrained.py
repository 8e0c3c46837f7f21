"""Judge the shipped flows, without training and without a cluster: the tables of their cards.

    python jobs/simulate.py split=test sequences=[AA,CE,CL,DG,DI] out=outputs/test time_ns=0.1
    OMP_NUM_THREADS=2 python benchmarks/pretrained.py boltzray://dipeptides-small AA CE CL DG DI --data outputs/test

Each peptide is drawn, weighted, and compared with its reference MD below `--data`. ESS counts all weights, under both
laws of the centre of mass. Energies in kT. Prints Markdown.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from boltzray import models
from boltzray.molecules import BatchedEnergy, Peptide
from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD
from boltzray.molecules.metrics import compare, noise_floor
from boltzray.molecules.reference_match import in_order_of
from boltzray.molecules.references import find_pdb, find_reference, load_reference
from boltzray.samplers import com_log_density, snis

TEMPERATURE_K = 310.0
COLUMNS = ("peptide", "ESS", "ESS radial", "k̂", "energy W2", "torus W2", "MD's halves: energy", "torus", "s")


def row(flow: models.Flow, sequence: str, data: Path, samples: int, seed: int) -> list[float]:
    peptide = Peptide.from_sequence(sequence)
    path = find_reference(data, sequence)
    if path is None:
        raise SystemExit(f"no reference MD of {sequence} below {data}: python jobs/simulate.py split=test …")
    began = time.perf_counter()
    x, log_q = flow.sample(flow.condition(peptide), samples, torch.Generator().manual_seed(seed))
    positions = (x * flow.scale_nm).double()
    energy = BatchedEnergy(peptide, TEMPERATURE_K)
    found = energy.evaluate(positions, gradient=False)
    seconds = time.perf_counter() - began
    results = [
        snis(None, log_q, torch.where(found.ok, com_log_density(x, mode)[0] - found.energy, -torch.inf))
        for mode in ("gaussian", "radial")
    ]
    pdb = find_pdb(data, sequence)
    stored = in_order_of(peptide, load_reference(path), Peptide.from_pdb(pdb) if pdb else None)
    if not stored.is_at(DEFAULT_FORCEFIELD, TEMPERATURE_K):
        raise SystemExit(f"{path} is in {stored.conditions}, not at {TEMPERATURE_K:g} K: simulate it again")
    reference, tica = stored.positions_nm, stored.tica
    assert tica is not None
    ours, theirs = results[0], reference_energy(energy, reference)
    kind = ("energy_w2", "torus_w2")
    weights, runs = stored.log_weights, stored.run_lengths
    drawn = positions.numpy(), theirs, found.energy.numpy(), peptide, tica, ours.log_w.numpy()
    metrics = compare(reference, *drawn, reference_log_weights=weights, only=kind)
    floor = noise_floor(reference, theirs, peptide, tica, log_weights=weights, run_lengths=runs, only=kind)
    k_hat = np.nan if ours.k_hat is None else ours.k_hat
    return [ours.ess, results[1].ess, k_hat, *(m[k] for m in (metrics, floor) for k in kind), seconds]


def reference_energy(energy: BatchedEnergy, positions_nm: np.ndarray) -> np.ndarray:
    return energy.evaluate(torch.from_numpy(positions_nm).double(), gradient=False).energy.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("peptides", nargs="+")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    flow = models.load(arguments.checkpoint)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    rows = []
    for sequence in arguments.peptides:
        rows.append(row(flow, sequence, arguments.data, arguments.samples, arguments.seed))
        print_verdict(sequence, rows[-1])
    if len(rows) > 1:
        print_verdict("mean", np.mean(rows, axis=0).tolist())


def print_verdict(name: str, values: list[float]) -> None:
    print(f"| {name} | {' | '.join(f'{value:.3f}' for value in values[:-1])} | {values[-1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
