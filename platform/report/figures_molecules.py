"""Figure of an ensemble's states as sticks, for paper; the page has a viewer too."""

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from .conformers import Conformer, bonds, conformers, elements
from .contents import HasChain, Report, number
from .plotting import WIDTH_IN, Floats, Picture

CPK = {"H": "#c9ced3", "C": "#6b7278", "N": "#2f6fd6", "O": "#d6362b", "S": "#c79a00"}
OUTLINE = "#22262a"
FADED = 0.55  # of the farthest atoms


def conformations(report: Report) -> Iterator[Picture]:
    """Plot the states of the last ensemble, side by side."""
    found = conformers(report.ensembles[-1], report.peptide) if report.ensembles else []
    if not found:
        return
    rows = -(-len(found) // 2)
    planar = np.array([c.positions_nm[:, :2] for c in found])
    low, high = planar.min(axis=(0, 1)) - 0.06, planar.max(axis=(0, 1)) + 0.06
    width, height = high - low
    figure = Figure(figsize=(WIDTH_IN, rows * (0.3 + WIDTH_IN / 2 * height / width)), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    for axis, conformer in zip(axes, found, strict=False):
        _sticks(axis, conformer, report.peptide, min(1.0, 1.6 / width))
        axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        energy = number(round(conformer.energy_kT, 1))
        axis.set_title(f"{100 * conformer.fraction:.0f} % of the weight, U = {energy} kT", fontsize=9)
    for axis in axes:
        axis.set_axis_off()
    yield Picture(
        name="conformations",
        section="Conformations",
        caption=f"{report.ensembles[-1].name}: clusters of the backbone angles (or of all torsions, where there is "
        "none), of each one near its middle, laid over each other. N blue, O red, S yellow, C dark, H light.",
        figure=figure,
    )


def _sticks(axis: Axes, conformer: Conformer, peptide: HasChain, thickness: float) -> None:
    """Add half a stick for each end of a bond, the nearest last, each with a dark rim."""
    x, symbols = conformer.positions_nm, elements(peptide)
    halves = [(i, (x[i] + x[j]) / 2) for bond in bonds(peptide) for i, j in (bond, bond[::-1])]
    halves.sort(key=lambda half: float(x[half[0], 2] + half[1][2]))
    low, high = float(x[:, 2].min()), float(x[:, 2].max())
    lines: list[Floats] = []
    colours: list[tuple[float, ...]] = []
    widths: list[float] = []
    for i, middle in halves:
        depth = (x[i, 2] - low) / max(high - low, 1e-9)
        fade = FADED + (1 - FADED) * depth
        width = (2.2 if symbols[i] == "H" else 4.4) * thickness * (0.85 + 0.3 * depth)
        for colour, extra in ((OUTLINE, 1.4), (CPK.get(symbols[i], "#a04fb0"), 0.0)):
            lines.append(np.array([x[i, :2], middle[:2]]))
            colours.append(tuple(fade * np.array(to_rgb(colour)) + (1 - fade)))
            widths.append(width + extra)
    axis.add_collection(LineCollection(lines, colors=colours, linewidths=widths, capstyle="round"))
