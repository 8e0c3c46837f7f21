"""log Z and averages of one peptide by an ECNF and by another flow, both by importance sampling with the same energies.

An ECNF draws all copies of a conformation that its network cannot tell apart, mirror images and exchanges of equal
hydrogens; flows whose atoms have names draw one. Each atom with two or three hydrogens doubles them, and so do chiral
centres, all together.

    python benchmarks/ecnf_exact.py outputs/train/checkpoint GG --draws 1000
"""

import argparse
import math
import time

import numpy as np
import torch

from boltzray import models
from boltzray.models.hub import DEFAULT_CHECKPOINT
from boltzray.molecules import Peptide
from boltzray.molecules.energy import OpenMMEnergy
from boltzray.samplers import com_log_density, snis

BLOCK = 50


def copies(peptide: Peptide) -> int:
    """Copies that the graph network draws of each conformation that has names, for peptides without planar NH2."""
    hydrogens: dict[int, int] = {}
    for a, b in peptide.topology.bonds():
        for one, other in ((a, b), (b, a)):
            if other.element.symbol == "H":
                hydrogens[one.index] = hydrogens.get(one.index, 0) + 1
    chiral = any(residue.name != "GLY" for residue in peptide.topology.residues())
    return int(2 ** (sum(n > 1 for n in hydrogens.values()) + chiral))


def observables(x_nm: np.ndarray, energy: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers (n,) that do not change with mirror images and exchanges of hydrogens."""
    centred = x_nm - x_nm.mean(1, keepdims=True)
    gyration = np.sqrt(np.square(centred).sum(2).mean(1))
    return {"energy, kT": energy, "radius of gyration, nm": gyration, "its square": gyration**2}


def weighted(flow: models.Flow, peptide: Peptide, n: int, seed: int) -> dict[str, tuple[float, float]]:
    """log Z and weighted averages with their standard errors, by the delta method."""
    c, generator = flow.condition(peptide), torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    drawn = [flow.sample(c, min(BLOCK, n - low), generator) for low in range(0, n, BLOCK)]
    x, log_q = (torch.cat(list(parts)) for parts in zip(*drawn, strict=True))
    seconds = time.perf_counter() - start
    x_nm = x.double().numpy() * flow.scale_nm
    energy = OpenMMEnergy(peptide, 310.0).evaluate(x_nm, gradient=False).energy
    log_w = com_log_density(x)[0].numpy() - energy - log_q.double().numpy()
    log_w = np.where(np.isfinite(log_w), log_w, -np.inf)
    # Densities of normalised coordinates: Z is in units of each flow's own scale.
    log_w += (3 * peptide.n_atoms - 3) * math.log(flow.scale_nm)
    result = snis(None, np.zeros(n), log_w, "none")
    w = np.exp(log_w - log_w.max())
    k_hat = "" if result.k_hat is None else f", k̂ {float(result.k_hat):.2f}"
    print(f"{n} draws in {seconds:.0f} s: ESS {float(result.ess) * n:.1f}{k_hat}")
    log_z = math.log(w.mean()) + log_w.max()
    found = {"log Z": (log_z, float(w.std() / w.mean() / math.sqrt(n)))}
    for name, values in observables(x_nm, energy).items():
        values = np.where(w > 0, values, 0.0)
        mean = float(w @ values / w.sum())
        found[name] = (mean, float(np.sqrt(np.square(w * (values - mean)).sum()) / w.sum()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="an ECNF")
    parser.add_argument("sequence")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--other", default=DEFAULT_CHECKPOINT)
    parser.add_argument("--other-draws", type=int, default=4000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    peptide = Peptide.from_sequence(arguments.sequence).iupac()
    ours = weighted(models.load(arguments.checkpoint).requires_grad_(False), peptide, arguments.draws, 0)
    other = weighted(models.load(arguments.other).requires_grad_(False), peptide, arguments.other_draws, 1)
    n = copies(peptide)
    print(f"\n{n} copies: log Z of the ECNF less {math.log(n):.3f}\n")
    print("| | ECNF | other flow | apart, σ |\n|---|---|---|---|")
    for name, (value, error) in ours.items():
        value -= math.log(n) * (name == "log Z")
        theirs, their_error = other[name]
        sigma = abs(value - theirs) / math.hypot(error, their_error)
        print(f"| {name} | {value:.4f} ± {error:.4f} | {theirs:.4f} ± {their_error:.4f} | {sigma:.1f} |")


if __name__ == "__main__":
    main()
