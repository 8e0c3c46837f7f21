"""log Z and averages of one peptide by an ECNF or a Robin, and by another flow and MD, all with the same energies.

The flows are weighted by importance sampling; MD knows no log Z. ESS is also there without the centre-of-mass term, as
the public code of Robin leaves it out. Draws with another hand than the peptide's structure count zero, unless the flow
is an ECNF: see `same_hand`.

An ECNF draws all copies of a conformation that its network cannot tell apart, mirror images and exchanges of equal
hydrogens; flows whose atoms have names draw one. Each atom with two or three hydrogens doubles them, and so do chiral
centres, all together.

    python jobs/sample.py sequence=GG sampler=snis weights=none out=outputs/gg
    python jobs/sample.py sequence=GG sampler=snis weights=none out=outputs/robin_gg checkpoint=outputs/robin/checkpoint
    python benchmarks/exact.py outputs/robin_gg outputs/gg --reference data
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boltzray import models
from boltzray.molecules import Peptide
from boltzray.molecules.energy import OpenMMEnergy
from boltzray.molecules.observables import dihedrals
from boltzray.molecules.references import find_pdb, find_reference, load_reference
from boltzray.molecules.storage import read_json
from boltzray.samplers import com_log_density, ess, snis
from boltzray.sampling.sample_files import read_samples

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


def same_hand(x_nm: np.ndarray, peptide: Peptide) -> np.ndarray:
    """Return True (n,) where the named neighbours of each atom with four stand about it as in the structure.

    Names of equal hydrogens do not change places in dynamics; a flow of positions exchanges some, and each exchange is
    a copy of the whole partition function, of which it draws next to nothing, with large weights.
    """
    neighbours: dict[int, list[int]] = {}
    for a, b in peptide.topology.bonds():
        neighbours.setdefault(a.index, []).append(b.index)
        neighbours.setdefault(b.index, []).append(a.index)
    four = np.array([sorted(found) for found in neighbours.values() if len(found) == 4])

    def hands(x: np.ndarray) -> np.ndarray:
        a, b, c, d = np.moveaxis(x[:, four], 2, 0)
        return np.sign((np.cross(b - a, c - a) * (d - a)).sum(-1))

    same: np.ndarray = (hands(x_nm) == hands(peptide.positions[None])).all(1)
    return same


def observables(x_nm: np.ndarray, energy: np.ndarray, peptide: Peptide) -> dict[str, np.ndarray]:
    """Numbers (n,) that do not change with mirror images and exchanges of hydrogens."""
    centred = x_nm - x_nm.mean(1, keepdims=True)
    gyration = np.sqrt(np.square(centred).sum(2).mean(1))
    found = {"energy, kT": energy, "radius of gyration, nm": gyration}
    for name, angle in zip(("φ", "ψ", "ω"), dihedrals(x_nm, peptide.topology), strict=True):
        found |= {f"cos {name}": np.cos(angle[:, 0]), f"cos² {name}": np.cos(angle[:, 0]) ** 2}
    return found


def weighted(folder: Path) -> tuple[Peptide, models.Flow, float, Found]:
    """Temperature in K, log Z and weighted averages of samples with raw weights, with errors by the delta method."""
    settings = read_json(folder / "sample.json")
    if (settings["sampler"], settings["weights"]) != ("snis", "none"):
        raise SystemExit(f"{folder} is not of sampler=snis weights=none: sample it so")
    flow = models.checkpoint.outline(settings["checkpoint"])
    peptide, sets = read_samples(folder)
    x_nm = np.concatenate(list(sets[-1].chunks)).astype(np.float64)
    energy, said = sets[-1].energy_kT, sets[-1].diagnostics
    # Densities of normalised coordinates: Z is in units of each flow's own scale.
    log_w = np.asarray(sets[-1].log_weights) + (3 * peptide.n_atoms - 3) * math.log(flow.scale_nm)
    n, whole = len(log_w), ess(log_w)
    without = said.get("ess_without_com")
    if without is None:
        without = ess(log_w - com_log_density(torch.from_numpy(x_nm / flow.scale_nm))[0].numpy())
    log_z = said["log_z"] + (3 * peptide.n_atoms - 3) * math.log(flow.scale_nm) - math.log(copies(peptide, flow))
    if not flow.config.graph:
        mine = same_hand(x_nm, peptide)
        w = np.exp(log_w - log_w.max())
        kept = float(w[mine].sum() / w.sum())
        share = f"{100 * (1 - mine.mean()):.2f} % of the draws, with {100 * (1 - kept):.1f} % of the weight"
        print(f"{folder}: {share}, have another hand, and count zero")
        log_w, log_z = np.where(mine, log_w, -np.inf), log_z + math.log(kept)
    result = snis(None, np.zeros(n), log_w, "none")
    k_hat = "" if result.k_hat is None else f", k̂ {result.k_hat:.2f}"
    print(
        f"{folder}: {n} draws, ESS {result.ess:.4f} ({result.ess * n:.1f} of them){k_hat}; of either hand {whole:.4f}, "
        f"without the term of the centre {without:.4f}"
    )
    found = {"log Z": (log_z, math.sqrt(1 / (result.ess * n) - 1 / n))}
    w = np.exp(log_w - log_w.max())
    for name, values in observables(x_nm, energy, peptide).items():
        values = np.where(w > 0, values, 0.0)
        mean = float(w @ values / w.sum())
        found[name] = (mean, float(np.sqrt(np.square(w * (values - mean)).sum()) / w.sum()))
    return peptide, flow, float(settings["temperature_k"]), found


def simulated(data: str, sequence: str, temperature_k: float) -> Found:
    """Averages of reference MD, their errors from those of independent runs."""
    path, pdb = find_reference(data, sequence), find_pdb(data, sequence)
    if path is None or pdb is None:
        raise SystemExit(f"no reference of {sequence} below {data}: make one with jobs/simulate.py hold_out=")
    reference, peptide = load_reference(path), Peptide.from_pdb(pdb)
    x_nm = reference.positions_nm.astype(np.float64)
    energy = OpenMMEnergy(peptide, temperature_k).evaluate(x_nm, gradient=False).energy
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
    parser.add_argument("folder", type=Path, help="samples of an ECNF, a Robin, or any other flow")
    parser.add_argument("other", type=Path, help="those of a flow to compare with")
    parser.add_argument("--reference", default="", help="a data folder with MD that was held out, or a reference")
    arguments = parser.parse_args()
    peptide, flow, temperature_k, ours = weighted(arguments.folder)
    others = {"other flow": weighted(arguments.other)[3]}
    if arguments.reference:
        others["MD"] = simulated(arguments.reference, peptide.sequence, temperature_k)
    if (n := copies(peptide, flow)) > 1:
        print(f"\n{n} copies of each conformation: log Z less {math.log(n):.3f}")
    print(f"\n{table(ours, others)}")


if __name__ == "__main__":
    main()
