"""Figures of energies, weighted and not, beside the reference."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .contents import Report, quantiles
from .plotting import REFERENCE_COLOUR, Floats, Picture, colours, finite, stacked


def energies(report: Report) -> Iterator[Picture]:
    """Plot densities and, where draws lie far outside the range of these, cumulative distributions too."""
    reference, of_reference = report.reference.finite_energies if report.reference else (np.array([]), None)
    generated = np.concatenate([finite(e.energy_kT) for e in report.ensembles])
    low, high = _range(reference, 0.999, of_reference) if len(reference) else _range(generated, 0.75)
    edges = np.linspace(low, high, 41)
    figure, axes = stacked(len(report.ensembles), 0.7 + 1.7 * len(report.ensembles))
    for axis, ensemble, colour in zip(axes, report.ensembles, colours(), strict=False):
        if len(reference):
            density = _density(reference, of_reference, edges)
            axis.stairs(density, edges, fill=True, color="#cfcfcf", label="reference MD")
        unweighted = _density(ensemble.energy_kT, None, edges)
        axis.stairs(unweighted, edges, color=colour, linestyle=":", linewidth=1.4, label="unweighted")
        weighted = _density(ensemble.energy_kT, ensemble.weights, edges)
        axis.stairs(weighted, edges, color=colour, linewidth=1.4, label="weighted")
        beyond = int((~((ensemble.energy_kT >= low) & (ensemble.energy_kT <= high))).sum())
        title = f"{ensemble.name}: {beyond} of {len(ensemble.energy_kT)} draws lie outside the range shown"
        axis.set(title=title, ylabel="density / (1/kT)", xlim=(low, high))
        axis.legend(loc="upper right")
    axes[-1].set_xlabel("potential energy / kT")
    chosen = "the reference" if len(reference) else "the lower three quarters of all draws"
    caption = f"Potential energy, in the range of {chosen}; what lies outside still counts in the densities."
    yield Picture(name="energy", section="Energy", caption=caption, figure=figure)

    sets = [reference, *(finite(e.energy_kT) for e in report.ensembles)]
    lowest = min((e.min() for e in sets if len(e)), default=0.0)
    if all((e <= high).mean() > 0.9 for e in sets[1:] if len(e)):
        return
    figure, (axis,) = stacked(1, 2.9)
    if len(reference):
        _cumulative(axis, reference - lowest, of_reference, color=REFERENCE_COLOUR, linewidth=3, label="reference MD")
    for ensemble, colour in zip(report.ensembles, colours(), strict=False):
        above = ensemble.energy_kT - lowest
        _cumulative(axis, above, None, color=colour, linestyle=":", label=f"{ensemble.name}, unweighted")
        _cumulative(axis, above, ensemble.weights, color=colour, label=f"{ensemble.name}, weighted")
    axis.set(xscale="log", ylim=(0, 1.02), xlabel="potential energy above the lowest / kT", ylabel="share below")
    axis.set_xlim(left=1.0)
    axis.legend()
    caption = "The same energies on a logarithmic axis, as the share of draws below each energy."
    yield Picture(name="energy_log", section="Energy", caption=caption, figure=figure)


def _range(values: Floats, top: float, weights: Floats | None = None) -> tuple[float, float]:
    """Range of the axis: up to the quantile `top`, because draws can reach 10⁷ kT, and room above."""
    if not len(values):
        return 0.0, 1.0
    low, middle, high = quantiles(values, (0.001, 0.5, top), weights)
    room = max(high - low, 1e-3 * abs(middle), 1.0)
    return float(low - 0.1 * room), float(high + 0.5 * room)


def _density(values: Floats, weights: Floats | None, edges: Floats) -> Floats:
    """Histogram density; values outside the edges still count in the normalisation."""
    fractions = np.full(len(values), 1.0 / len(values)) if weights is None else weights
    inside = np.isfinite(values)
    counts = np.histogram(values[inside], edges, weights=fractions[inside])[0]
    return counts / np.diff(edges)


def _cumulative(axis: Axes, values: Floats, weights: Floats | None, **line: Any) -> None:
    order = np.argsort(values)
    fractions = np.full(len(values), 1.0 / len(values)) if weights is None else weights
    order = order[np.isfinite(values[order])]
    axis.step(np.maximum(values[order], 1.0), np.cumsum(fractions[order]), where="post", **line)
