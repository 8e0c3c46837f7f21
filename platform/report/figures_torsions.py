"""Figure of the torsions of any molecule: those about bonds between heavy atoms, of ensembles and of reference MD."""

import math
from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from boltzray.molecules.bond_torsions import heavy_torsions, torsion_angles
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.subsample import normalised_weights

from .contents import Report
from .plotting import REFERENCE_COLOUR, WIDTH_IN, Floats, Picture, colours

BINS = 72
MOST = 12  # the ones that turn most
STIFF = 0.95  # of the length of the mean direction: above it a torsion says nothing
COLUMNS = 3


def torsions(report: Report) -> Iterator[Picture]:
    """Plot densities of the torsions of a molecule with an energy of its own, those that turn most."""
    peptide = report.peptide
    if not (isinstance(peptide, Peptide) and peptide.own_forcefield):
        return
    known = heavy_torsions(peptide.topology)
    sets = [(e.name, colour, e.positions_nm, e.weights) for e, colour in zip(report.ensembles, colours(), strict=False)]
    if reference := report.reference:
        weights = normalised_weights(reference.log_weights, len(reference.positions_nm))
        sets.insert(0, ("reference MD", REFERENCE_COLOUR, reference.positions_nm, weights))
    if not known or not sets:
        return
    angles = [np.nan_to_num(torsion_angles(x, [atoms for _, atoms in known])) for _, _, x, _ in sets]
    steady = np.array([np.abs(w @ np.exp(1j * a)) for a, (_, _, _, w) in zip(angles, sets, strict=True)]).min(0)
    chosen = [int(k) for k in np.argsort(steady)[:MOST] if steady[k] < STIFF]
    if not chosen:
        return
    rows = -(-len(chosen) // COLUMNS)
    figure = Figure(figsize=(WIDTH_IN, 0.5 + 1.2 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True).ravel()
    for axis, k in zip(axes, chosen, strict=False):
        for (name, colour, _, w), a in zip(sets, angles, strict=True):
            _curve(axis, a[:, k], w, colour, name)
        axis.set_title(known[k][0], fontsize=8)
        axis.set(yticks=[], xticks=[-180, 0, 180], xlim=(-180, 180), ylim=(0, None))
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    left_out = len(known) - len(chosen)
    yield Picture(
        name="torsions",
        section="Torsions",
        caption="Densities of torsions about bonds between heavy atoms, in degrees, those that turn most"
        + (f"; {left_out} others are left out." if left_out else "."),
        figure=figure,
    )


def _curve(axis: Axes, angle: Floats, weights: Floats, colour: str, name: str) -> None:
    density, edges = np.histogram(angle, BINS, (-math.pi, math.pi), weights=weights)
    axis.stairs(density, np.degrees(edges), color=colour, label=name, fill=name == "reference MD", alpha=0.9)
