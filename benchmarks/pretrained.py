"""Judge a shipped flow on peptides that it has never seen, without a cluster: the tables of the cards.

    OMP_NUM_THREADS=1 python benchmarks/pretrained.py boltzray://peptides-small AA CE CL DG DI --seeds 3
    OMP_NUM_THREADS=1 python benchmarks/pretrained.py FLOW --published 2 --data outputs/references

`--published 2`: the published test peptides of 2 residues. Each peptide is drawn and weighted, with every seed; ± is
the spread over seeds, of the mean its error over peptides. ESS counts all weights; "radial" with the centre of mass of
the published weights, "published" as published: radial, the largest 0.2 % dropped. With `--data`, peptides that have a
reference there are compared with it, next to the distance of its own halves (energies in kT). Prints Markdown.
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
from boltzray.molecules.planar_names import turned
from boltzray.molecules.reference_match import in_order_of
from boltzray.molecules.references import find_pdb, find_reference, load_reference, published_sequences
from boltzray.samplers import com_log_density, snis
from boltzray.samplers.importance_weights import ess

TEMPERATURE_K = 310.0
COLUMNS = ("peptide", "ESS", "ESS radial", "published", "k̂", "energy W2", "torus W2", "halves: energy", "torus", "s")
DISTANCES = ("energy_w2", "torus_w2")
TRUSTED = 0.7


def row(flow: models.Flow, sequence: str, data: Path | None, samples: int, seed: int) -> list[float]:
    peptide = Peptide.from_sequence(sequence)
    began = time.perf_counter()
    x, log_q = flow.sample(flow.condition(peptide), samples, torch.Generator().manual_seed(seed))
    positions = (x * flow.scale_nm).double()
    energy = BatchedEnergy(peptide, TEMPERATURE_K)
    found = energy.evaluate(positions, gradient=False)
    seconds = time.perf_counter() - began
    groups = peptide.planar_groups if flow.atom_order == "named" else ()
    ok = found.ok & ~torch.from_numpy(turned(groups, positions.numpy()))
    target = {
        mode: torch.where(ok, com_log_density(x, mode)[0] - found.energy, -torch.inf) for mode in ("gaussian", "radial")
    }
    ours = snis(None, log_q, target["gaussian"])
    radial, published = snis(None, log_q, target["radial"]), snis(None, log_q, target["radial"], "drop_top")
    k_hat = np.nan if ours.k_hat is None else ours.k_hat
    distances = [np.nan] * 4
    path = None if data is None else find_reference(data, sequence)
    if data is not None and path is not None:
        pdb = find_pdb(data, sequence)
        stored = in_order_of(peptide, load_reference(path), Peptide.from_pdb(pdb) if pdb else None)
        if not stored.is_at(DEFAULT_FORCEFIELD, TEMPERATURE_K):
            raise SystemExit(f"{path} is in {stored.conditions}, not at {TEMPERATURE_K:g} K: simulate it again")
        reference, tica = stored.positions_nm, stored.tica
        assert tica is not None
        theirs = reference_energy(energy, reference)
        weights, runs = stored.log_weights, stored.run_lengths
        drawn = positions.numpy(), theirs, found.energy.numpy(), peptide, tica, ours.log_w.numpy()
        metrics = compare(reference, *drawn, reference_log_weights=weights, only=DISTANCES)
        floor = noise_floor(reference, theirs, peptide, tica, log_weights=weights, run_lengths=runs, only=DISTANCES)
        distances = [m[k] for m in (metrics, floor) for k in DISTANCES]
    return [ours.ess, radial.ess, ess(published.log_w), k_hat, *distances, seconds]


def reference_energy(energy: BatchedEnergy, positions_nm: np.ndarray) -> np.ndarray:
    return energy.evaluate(torch.from_numpy(positions_nm).double(), gradient=False).energy.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("peptides", nargs="*")
    parser.add_argument("--published", type=int, help="residues: all published test peptides of that length")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    names = [*arguments.peptides, *(published_sequences("test", arguments.published) if arguments.published else ())]
    if not names:
        parser.error("give peptides, or --published 2")
    flow = models.load(arguments.checkpoint)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    rows = []
    for sequence in names:
        seeds = range(arguments.seeds)
        found = np.array([row(flow, sequence, arguments.data, arguments.samples, seed) for seed in seeds])
        rows.append(found.mean(0))
        print_row(sequence, found.mean(0), found.std(0, ddof=1) if len(seeds) > 1 else None)
    if len(rows) > 1:
        table = np.array(rows)
        known = np.isfinite(table).sum(0)
        means, spreads = np.full(len(known), np.nan), np.full(len(known), np.nan)
        some = known > 1  # peptides without a reference have no distances
        means[some], spreads[some] = np.nanmean(table[:, some], 0), np.nanstd(table[:, some], 0, ddof=1)
        print_row("mean ± its error", means, spreads / np.sqrt(known.clip(min=1)))
        trusted = 100 * (table[:, 3] < TRUSTED).mean()
        print(f"\nmedian ESS {np.median(table[:, 0]):.3f}; k̂ < {TRUSTED} for {trusted:.0f} % of {len(table)} peptides")


def print_row(name: str, values: np.ndarray, errors: np.ndarray | None) -> None:
    shown = ["–" if np.isnan(v) else f"{v:.3f}" for v in values[:-1]]
    if errors is not None:
        shown = [s if s == "–" else f"{s} ± {e:.3f}" for s, e in zip(shown, errors[:-1], strict=True)]
    print(f"| {name} | {' | '.join(shown)} | {values[-1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
