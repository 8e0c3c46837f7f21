"""Time and memory of the metrics: 10⁴ against 10⁴ conformations, each part in a process of its own.

    OMP_NUM_THREADS=1 python benchmarks/metrics.py                          8 residues, ACDEFGHI
    OMP_NUM_THREADS=1 python benchmarks/metrics.py --sequence AA --frames 2000

The conformations are real in what matters to transport: backbone angles from three basins a residue, with a spread of
20 degrees, different fractions in the two sets, and weights with an ESS of a third.
"""

import argparse
import resource
import subprocess
import sys
import time

import numpy as np

from boltzray.molecules.metrics import METRICS, compare
from boltzray.molecules.observables import Tica, tica_features
from boltzray.molecules.peptide import Peptide

BASINS = np.radians([(-65.0, 145.0), (-75.0, -40.0), (57.0, 40.0)])
FRACTIONS = ((0.55, 0.4, 0.05), (0.5, 0.4, 0.1))
SPREAD = np.radians(20.0)


def rotated(x: np.ndarray, begin: np.ndarray, end: np.ndarray, atoms: np.ndarray, angle: np.ndarray) -> None:
    """Turn `atoms` of every conformation about the bond begin → end by its own angle. Shape: x (T, N, 3)."""
    axis = x[:, end] - x[:, begin]
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    v, k = x[:, atoms] - x[:, end][:, None], axis[:, None]
    c, s = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    turned = v * c + np.cross(k, v) * s + k * (k * v).sum(-1, keepdims=True) * (1 - c)
    x[:, atoms] = turned + x[:, end][:, None]


def conformations(peptide: Peptide, frames: int, which: int, seed: int) -> np.ndarray:
    """The built structure with each φ and ψ turned into a basin; side chains go along, and may overlap."""
    from boltzray.molecules.observables import dihedrals

    rng = np.random.default_rng(seed)
    x = np.repeat(peptide.positions[None], frames, axis=0)
    phi, psi, _ = dihedrals(x[:1], peptide.topology)
    found = [{atom.name: atom.index for atom in residue.atoms()} for residue in peptide.topology.residues()]
    after = [min(names.values()) for names in found[1:]] + [peptide.n_atoms]
    for i, names in enumerate(found):
        wanted = BASINS[rng.choice(len(BASINS), frames, p=FRACTIONS[which])] + SPREAD * rng.standard_normal((frames, 2))
        rest = np.arange(after[i], peptide.n_atoms)
        own = np.array([k for name, k in names.items() if name not in ("N", "H", "CA")])
        if i:
            rotated(x, names["N"], names["CA"], np.r_[own, rest], wanted[:, 0] - phi[0, i - 1])
        if i < len(found) - 1:
            rotated(x, names["CA"], names["C"], np.r_[names["O"], rest], wanted[:, 1] - psi[0, i])
    return (x + 0.003 * rng.standard_normal(x.shape)).astype(np.float32)


def measure(sequence: str, frames: int, metric: str, threads: int) -> None:
    """One metric, or none of them (what is needed to begin with), in this process."""
    peptide = Peptide.from_sequence(sequence)
    sets = [conformations(peptide, frames, which, which) for which in range(2)]
    rng = np.random.default_rng(2)
    features = tica_features(sets[0][:1000], peptide.topology)
    projection = np.linalg.svd(features - features.mean(0), full_matrices=False)[2][:2].T
    tica = Tica(mean=features.mean(0), projection=projection)
    energies = [rng.normal(-200, 20, frames) for _ in sets]
    weights = rng.normal(0, 1.05, frames)  # log-normal: an ESS of exp(-1.05²), a third
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, time.perf_counter()
    only = METRICS if metric == "all" else (metric,)
    found = compare(*sets, *energies, peptide, tica, weights, only=only, frames=frames, threads=threads)
    seconds, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    name = f"{metric}, {threads} threads" if threads > 1 else metric
    print(
        f"| {name} | {found.get(metric, np.nan):.4g} | {seconds:.1f} | {before:.2f} | {peak:.2f} |",
        flush=True,
    )


def main() -> None:
    """A row for each metric, and one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequence", default="ACDEFGHI")
    parser.add_argument("--frames", type=int, default=10_000, help="of each set")
    parser.add_argument("--metric", default="", help="this one alone, in this process")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.metric:
        measure(options.sequence, options.frames, options.metric, options.threads)
        return
    print(f"{options.sequence}, {options.frames} frames of each set\n", flush=True)
    print("| metric | value | seconds | GB before | GB at most |\n|---|---|---|---|---|", flush=True)
    command = [sys.executable, __file__, "--sequence", options.sequence, "--frames", str(options.frames)]
    for metric in ("ess", "energy_w2", "torus_w2", "tica_w2", "torus_jsd", "clashing", "all"):
        subprocess.run([*command, "--metric", metric], check=True)
    subprocess.run([*command, "--metric", "all", "--threads", "2"], check=True)


if __name__ == "__main__":
    main()
