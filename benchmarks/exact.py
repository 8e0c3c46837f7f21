"""log Z and averages of one peptide by an ECNF or a Robin, and by another flow and MD, all with the same energies.

The flows are weighted by importance sampling; MD knows no log Z. ESS is also there without the centre-of-mass term, as
the public code of Robin leaves it out.

An ECNF draws all copies of a conformation that its network cannot tell apart, mirror images and exchanges of equal
hydrogens; flows whose atoms have names draw one. Each atom with two or three hydrogens doubles them, and so do chiral
centres, all together.

    python benchmarks/exact.py outputs/train/checkpoint GG --draws 1000 --reference data
"""

import argparse
import math
import time
from typing import Any

import numpy as np
import torch

from boltzray import models
from boltzray.models.hub import DEFAULT_CHECKPOINT
from boltzray.molecules import Peptide
from boltzray.molecules.energy import OpenMMEnergy
from boltzray.molecules.observables import dihedrals
from boltzray.molecules.references import find_pdb, find_reference, load_reference
from boltzray.samplers import bins_com_log_density, com_log_density, ess, snis

BLOCK = 50
TEMPERATURE_K = 310.0
Found = dict[str, tuple[float, float]]  # values with their standard errors


def copies(peptide: Peptide, flow: models.Flow) -> int:
    """Copies that a graph network draws of each conformation that has names, for peptides without planar NH2."""
    if not flow.config.graph:
        return 1
    hydrogens: dict[int, int] = {}
    for a, b in peptide.topology.bonds():
        for one, other in ((a, b), (b, a)):
            if other.element.symbol == "H":
                hydrogens[one.index] = hydrogens.get(one.index, 0) + 1
    chiral = any(residue.name != "GLY" for residue in peptide.topology.residues())
    return int(2 ** (sum(n > 1 for n in hydrogens.values()) + chiral))


def observables(x_nm: np.ndarray, energy: np.ndarray, peptide: Peptide) -> dict[str, np.ndarray]:
    """Numbers (n,) that do not change with mirror images and exchanges of hydrogens."""
    centred = x_nm - x_nm.mean(1, keepdims=True)
    gyration = np.sqrt(np.square(centred).sum(2).mean(1))
    found = {"energy, kT": energy, "radius of gyration, nm": gyration}
    for name, angle in zip(("φ", "ψ", "ω"), dihedrals(x_nm, peptide.topology), strict=True):
        found |= {f"cos {name}": np.cos(angle[:, 0]), f"cos² {name}": np.cos(angle[:, 0]) ** 2}
    return found


def drawn(flow: models.Flow, peptide: Peptide, n: int, seed: int) -> dict[str, torch.Tensor]:
    """`n` draws: x (n, N, 3), log_q (n,), and center (n, 3) of a flow over bins that has one."""
    c, stream = flow.condition(peptide), np.random.default_rng(seed)
    start, parts = time.perf_counter(), []
    for low in range(0, n, BLOCK):
        noise = torch.from_numpy(flow.noise(stream, min(BLOCK, n - low), peptide.n_atoms))
        parts.append({name: part for name, part in flow.draw(noise, c)._asdict().items() if part is not None})
    print(f"{n} draws in {time.perf_counter() - start:.0f} s", end="")
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def weighted(flow: models.Flow, peptide: Peptide, n: int, seed: int) -> Found:
    """log Z and weighted averages with their standard errors, by the delta method."""
    draws = drawn(flow, peptide, n, seed)
    x_nm = draws["x"].double().numpy() * flow.scale_nm
    energy = OpenMMEnergy(peptide, TEMPERATURE_K).evaluate(x_nm, gradient=False).energy
    bare = -energy - draws["log_q"].double().numpy() - flow.log_covered(peptide.n_atoms)
    bare = np.where(np.isfinite(bare), bare, -np.inf)
    if "center" in draws:
        term = bins_com_log_density(draws["center"].numpy(), peptide.n_atoms).log_density
    else:
        term = com_log_density(draws["x"])[0].numpy()
    # Densities of normalised coordinates: Z is in units of each flow's own scale.
    log_w = bare + np.where(np.isfinite(term), term, 0.0) + (3 * peptide.n_atoms - 3) * math.log(flow.scale_nm)
    result = snis(None, np.zeros(n), log_w, "none")
    k_hat = "" if result.k_hat is None else f", k̂ {float(result.k_hat):.2f}"
    print(f": ESS {result.ess:.4f} ({result.ess * n:.1f} draws), without the term of the centre {ess(bare):.4f}{k_hat}")
    found = {"log Z": (result.log_z, result.log_z_error)}
    w = np.exp(log_w - log_w.max())
    for name, values in observables(x_nm, energy, peptide).items():
        values = np.where(w > 0, values, 0.0)
        mean = float(w @ values / w.sum())
        found[name] = (mean, float(np.sqrt(np.square(w * (values - mean)).sum()) / w.sum()))
    return found


def simulated(data: str, sequence: str) -> Found:
    """Averages of reference MD, their errors from those of independent runs."""
    path, pdb = find_reference(data, sequence), find_pdb(data, sequence)
    if path is None or pdb is None:
        raise SystemExit(f"no reference of {sequence} below {data}: make one with jobs/simulate.py hold_out=")
    reference, peptide = load_reference(path), Peptide.from_pdb(pdb)
    x_nm = reference.positions_nm.astype(np.float64)
    energy = OpenMMEnergy(peptide, TEMPERATURE_K).evaluate(x_nm, gradient=False).energy
    ends = np.cumsum(reference.run_lengths)[:-1]
    print(f"MD: {len(x_nm)} frames of {len(reference.run_lengths)} runs")
    found = {}
    for name, values in observables(x_nm, energy, peptide).items():
        means = np.array([run.mean() for run in np.split(values, ends)])
        found[name] = (float(values.mean()), float(means.std(ddof=1) / math.sqrt(len(means))))
    return found


def table(ours: Found, others: dict[str, Found]) -> str:
    """Markdown: a row for each number, and how many standard errors each other result is away."""
    lines = ["| | ours | " + " | ".join(f"{name} | apart, σ" for name in others) + " |"]
    lines.append("|---" * (2 + 2 * len(others)) + "|")
    for name, (value, error) in ours.items():
        cells: list[Any] = [name, f"{value:.4f} ± {error:.4f}"]
        for found in others.values():
            if name not in found:
                cells += ["–", "–"]
                continue
            theirs, their_error = found[name]
            sigma = abs(value - theirs) / math.hypot(error, their_error)
            cells += [f"{theirs:.4f} ± {their_error:.4f}", f"{sigma:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="an ECNF, a Robin, or any other flow")
    parser.add_argument("sequence")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--other", default=DEFAULT_CHECKPOINT)
    parser.add_argument("--other-draws", type=int, default=4000)
    parser.add_argument("--reference", default="", help="a data folder with MD that was held out, or a reference")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    peptide = Peptide.from_sequence(arguments.sequence).iupac()
    flow = models.load(arguments.checkpoint).requires_grad_(False)
    ours = weighted(flow, peptide, arguments.draws, 0)
    others = {
        "other flow": weighted(models.load(arguments.other).requires_grad_(False), peptide, arguments.other_draws, 1)
    }
    if arguments.reference:
        others["MD"] = simulated(arguments.reference, arguments.sequence)
    n = copies(peptide, flow)
    if n > 1:
        ours["log Z"] = ours["log Z"][0] - math.log(n), ours["log Z"][1]
        print(f"\n{n} copies: log Z less {math.log(n):.3f}")
    print(f"\n{table(ours, others)}")


if __name__ == "__main__":
    main()
