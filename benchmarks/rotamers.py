"""Plot χ1 and χ2 of leucine, valine, isoleucine and threonine by name, from MD and from weighted draws of a flow.

    python jobs/simulate.py "sequences=[LV,IT]" split=test time_ns=0.2 replicas=64 md.hot_ps=5 out=outputs/rotamers
    for s in LV IT; do python jobs/sample.py sequence=$s samples=10000 sampler=snis data_dir=outputs/rotamers; done
    python benchmarks/rotamers.py outputs/sample/LV outputs/sample/IT --data outputs/rotamers

Prints the shares of the three staggered rotamers, by IUPAC's names; writes docs/rotamers.png.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import mdtraj
import numpy as np

from boltzray.evaluation.reference import find_comparable
from boltzray.molecules.stereo import atom_names
from boltzray.samplers import normalised
from boltzray.sampling.sample_files import read_samples

CHI = {
    "LEU": ("N CA CB CG", "CA CB CG CD1"),
    "VAL": ("N CA CB CG1",),
    "ILE": ("N CA CB CG1", "CA CB CG1 CD1"),
    "THR": ("N CA CB OG1",),
}
STAGGERED = {60: "+60", 180: "180", -60: "−60"}


def angles(names: list[str], topology: mdtraj.Topology, positions: np.ndarray, residue: str, four: str) -> np.ndarray:
    """A torsion of each frame in degrees, in [0, 360). Shape: positions (T, N, 3)."""
    number = next(name.split()[0] for name in names if name.split()[1] == residue)
    index = [names.index(f"{number} {residue} {atom}") for atom in four.split()]
    radians = mdtraj.compute_dihedrals(mdtraj.Trajectory(positions, topology), [index])[:, 0]
    return np.degrees(radians) % 360


def shares(chi: np.ndarray, weights: np.ndarray) -> str:
    """Shares of the three staggered rotamers, in per cent."""
    nearest = np.array(list(STAGGERED))[np.abs((chi[:, None] - np.array(list(STAGGERED)) + 180) % 360 - 180).argmin(1)]
    return "  ".join(f"{label}: {100 * weights[nearest == angle].sum():4.1f} %" for angle, label in STAGGERED.items())


def main() -> None:
    """Compute the torsions, print the shares, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/rotamers.png"))
    options = parser.parse_args()
    panels = []
    for folder in options.samples:
        peptide, sets = read_samples(folder)
        reference = find_comparable(peptide, options.data, 310.0).trajectory
        assert reference is not None
        names, topology = atom_names(peptide), mdtraj.Topology.from_openmm(peptide.topology)
        drawn = next(e for e in sets if e.name == "SNIS")
        weights = normalised(drawn.log_weights)
        for residue, torsions in CHI.items():
            if any(name.split()[1] == residue for name in names):
                for k, four in enumerate(torsions, start=1):
                    md = angles(names, topology, reference.positions_nm, residue, four)
                    flow = angles(names, topology, drawn.positions_nm, residue, four)
                    panels.append((f"{residue} χ{k} ({four.replace(' ', '–')})", md, reference.weights, flow, weights))
    figure, axes = plt.subplots(2, 3, figsize=(11, 5), sharex=True, layout="constrained")
    for axis, (title, md, of_md, flow, weights) in zip(axes.flat, panels, strict=True):
        print(title)
        print(f"  MD    {shares(md, of_md)}")
        print(f"  flow  {shares(flow, weights)}")
        bins = np.linspace(0, 360, 73)
        axis.hist(md, bins, weights=of_md, density=True, color="0.75", label="molecular dynamics")
        axis.hist(flow, bins, weights=weights, density=True, histtype="step", color="C0", label="flow, weighted")
        for angle in (60, 180, 300):
            axis.axvline(angle, color="0.4", lw=0.6, ls=":")
        axis.set(title=title, xticks=(0, 60, 120, 180, 240, 300, 360), xlim=(0, 360), yticks=())
    axes[0, 0].legend(frameon=False, fontsize="small")
    for axis in axes[-1]:
        axis.set_xlabel("degrees (300 is −60)")
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
