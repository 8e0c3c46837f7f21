"""Figures of samplers at equal budgets."""

from collections.abc import Iterator, Sequence
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure

from .curves import Curve
from .plotting import MARKERS, REFERENCE_COLOUR, WIDTH_IN, Picture, colours

PANELS = (
    ("effective", "effective draws"),
    ("energy_w2", "energy W₂ / kT"),
    ("torus_w2", "torus W₂ / rad"),
    ("tica_w2", "TICA W₂"),
)
AXES = {"energies": "energy evaluations", "seconds": "seconds of one core or GPU"}


def budgets(curves: Sequence[Curve]) -> Iterator[Picture]:
    """Plot each metric over energies, and over time."""
    if not curves:
        return
    runs = max(point.runs for curve in curves for point in curve.points)
    for name, xlabel in AXES.items():
        yield Picture(
            name=f"budget_{name}",
            section="Equal budgets",
            caption=f"Against {xlabel}; bars: 95 % intervals of the mean over up to {runs} independent runs. "
            "Dashed: two halves of the reference MD. A step of MD counts as one energy; its effective draws are from "
            "the autocorrelation of the slowest coordinate, and mean nothing before it has left its first state.",
            figure=_grid(curves, name, xlabel),
        )


def _grid(curves: Sequence[Curve], name: str, xlabel: str) -> Figure:
    figure = Figure(figsize=(WIDTH_IN, 5.0), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True).ravel()
    for axis, (metric, label) in zip(axes, PANELS, strict=True):
        for curve, colour, marker in zip(curves, colours(), cycle(MARKERS), strict=False):
            points = [point for point in curve.points if metric in point.mean]
            x = [getattr(point, name) for point in points]
            y = np.array([point.mean[metric] for point in points])
            margin = np.array([point.margin(metric) for point in points])
            below = np.minimum(margin, 0.8 * y)  # the axis is logarithmic
            style = {"marker": marker, "markersize": 4.5, "linewidth": 1.4, "capsize": 2.5, "elinewidth": 1}
            axis.errorbar(x, y, yerr=np.array([below, margin]), color=colour, label=curve.method, **style)
        axis.set(title=label)
        if not any(metric in point.mean for curve in curves for point in curve.points):
            continue  # a logarithmic axis fails without data
        if curves[0].floor.get(metric):
            axis.axhline(curves[0].floor[metric], color=REFERENCE_COLOUR, linestyle="--", linewidth=1)
        axis.set(xscale="log", yscale="log")
        axis.grid(which="major", color="#e3e6e9", linewidth=0.6)
    for axis in axes[2:]:
        axis.set_xlabel(xlabel)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure
