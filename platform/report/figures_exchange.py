"""Figures of replica exchange: the walk through the ladder, swaps, overlap of energies.

Numbers of rungs begin at 0, the lowest temperature.
"""

from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from boltzray.molecules.ladder_mixing import (
    Ladders,
    common_temperatures_k,
    relaxation_ps,
    rung_transitions,
    rungs,
    swap_rates,
)
from boltzray.molecules.replica_exchange import LadderTrajectory

from .contents import number, percent
from .plotting import COLOURS, WIDTH_IN, Floats, Picture, colours, finite, stacked, time_axis

SECTION = "Ladder"
WALKERS = 4  # shown of a ladder
POINTS = 800  # of a line, at most
BAND = (0.2, 0.4)  # of swap rates: below it walks are slow, above it rungs are spent
CELL_NUMBERS = 12  # rungs up to which the map has numbers
BINS = 60


def exchange(ladders: Ladders) -> Iterator[Picture]:
    """Plot the ladders together, and the walk of the first. Raises: ValueError for several sets of temperatures."""
    if ladders:
        yield ladder_walk(ladders[0], len(ladders))
        yield swaps(ladders)
        yield overlap(ladders)


def ladder_walk(ladder: LadderTrajectory, n_ladders: int = 1) -> Picture:
    """Plot the rungs of some walkers over time, each in its panel."""
    path, size = rungs(ladder), len(ladder.temperatures_k)
    shown = np.unique(np.linspace(0, size - 1, min(size, WALKERS)).round().astype(int))
    stride = -(-len(path) // POINTS)
    ps = len(ladder.positions_nm) * ladder.interval_ps / (len(path) - 1)  # from one attempt to the next
    unit, label = time_axis(len(ladder.positions_nm) * ladder.interval_ps)
    time = np.arange(0, len(path), stride) * ps / unit
    marker = "o" if len(time) < 10 else None
    figure, axes = stacked(len(shown), 0.6 + 1.25 * len(shown))
    for axis, walker, colour in zip(axes, shown, colours(), strict=False):
        line: dict[str, Any] = {"color": colour, "linewidth": 0.8, "marker": marker, "markersize": 3, "clip_on": False}
        axis.plot(time, path[::stride, walker], drawstyle="steps-post", **line)
        axis.set(title=f"walker {walker}", xlim=(0, (len(path) - 1) * ps / unit), ylim=(-0.4, size - 0.6))
        _kelvin(axis, ladder.temperatures_k, 6)
    axes[-1].set_xlabel(f"time / {label}")
    caption = (
        f"Temperature of {len(shown)} of {size} walkers"
        + (f" of the first of {n_ladders} ladders" if n_ladders > 1 else "")
        + ", evenly chosen by where they start. A good walk crosses the whole ladder many times; one that stays in a "
        "half has a gap to cross, in temperature or in structure."
    )
    if stride > 1:
        caption += f" One in {number(stride)} attempts to swap is drawn."
    return Picture(name="ladder_walk", section=SECTION, caption=caption, figure=figure)


def swaps(ladders: Ladders) -> Picture:
    """Plot the transitions of walkers between rungs as a map, and the swap rates of neighbours."""
    temperatures, matrix, rates = common_temperatures_k(ladders), rung_transitions(ladders), swap_rates(ladders)
    size = len(matrix)
    figure = Figure(figsize=(WIDTH_IN, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    top = max(float(matrix.max()), 1e-9)
    left.imshow(matrix, cmap="Blues", vmin=0, vmax=top, origin="lower")
    if size <= CELL_NUMBERS:
        for (i, j), share in np.ndenumerate(matrix):
            colour = "white" if share > 0.6 * top else "#1d2228"
            text = f"{100 * share:.0f}" if share >= 0.005 or share == 0 else "<1"
            left.text(j, i, text, ha="center", va="center", color=colour, fontsize=9 - 0.3 * size)
    _kelvin(left, temperatures, 8 if size > CELL_NUMBERS else CELL_NUMBERS)
    ticks = left.get_yticks()
    left.set_xticks(ticks, [f"{temperatures[int(r)]:.0f}" for r in ticks], rotation=90, fontsize=8)
    left.set(title="walkers, % a frame", xlabel="to / K", ylabel="from")

    pairs = np.arange(size - 1) + 0.5
    right.axhspan(*BAND, color="#e8f1ea", zorder=0)
    right.plot(pairs, rates, color=COLOURS[0], marker="o", markersize=3.5, linewidth=1, clip_on=False)
    right.set_xticks(ticks, [t.get_text() for t in left.get_xticklabels()], rotation=90, fontsize=8)
    right.set(title="swaps of neighbours", xlabel="between / K", ylabel="accepted share", ylim=(0, 1.02))
    right.set_xlim(-0.2, size - 0.8)
    interval = ladders[0].interval_ps
    caption = (
        f"Where a walker is one frame ({number(interval)} ps) later, and the share of attempts that swap neighbours; "
        f"shaded: {percent(BAND[0])} to {percent(BAND[1])}, where a ladder is neither too wide nor too dense. Walkers "
        f"forget their rung in {_relaxation(relaxation_ps(ladders), interval)}, as far as a walk with this map does."
    )
    return Picture(name="swaps", section=SECTION, caption=caption, figure=figure)


def overlap(ladders: Ladders) -> Picture:
    """Plot the energy histograms of all rungs; the caption has the least overlap of neighbours."""
    temperatures = common_temperatures_k(ladders)
    edges, densities = energy_histograms(ladders)
    figure, (axis,) = stacked(1, 2.9)
    shades = matplotlib.colormaps["plasma"](np.linspace(0, 0.88, len(temperatures)))
    for density, temperature, shade in zip(densities, temperatures, shades, strict=True):
        axis.stairs(density, edges, color=shade, linewidth=1.3, label=f"{temperature:.0f} K")
    axis.set(xlabel=f"potential energy / kT of {temperatures[0]:.0f} K", ylabel="density / (1/kT)", ylim=(0, None))
    figure.legend(loc="outside right upper", fontsize=8, handlelength=1.2, labelspacing=0.3)
    shared = np.minimum(densities[1:], densities[:-1]) @ np.diff(edges)
    least = int(shared.argmin())
    caption = (
        "Potential energy of each rung. Neighbours must overlap to swap, and to be weighted to each other; the least "
        f"overlap is {percent(float(shared[least]))}, of {temperatures[least]:.0f} and {temperatures[least + 1]:.0f} K."
    )
    return Picture(name="energy_overlap", section=SECTION, caption=caption, figure=figure)


def energy_histograms(ladders: Ladders) -> tuple[Floats, Floats]:
    """Return common edges, and a density for each rung. Shape: (BINS + 1,), (R, BINS). Units: kT of the lowest rung."""
    energies = np.concatenate([ladder.energy_kT for ladder in ladders])
    known = finite(energies)
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    edges = np.linspace(low - 0.5, high + 0.5, BINS + 1)
    counts = np.array([np.histogram(finite(rung), edges)[0] for rung in energies.T], dtype=np.float64)
    return edges, counts / (np.diff(edges) * np.maximum(counts.sum(axis=1, keepdims=True), 1))


def _kelvin(axis: Axes, temperatures: tuple[float, ...], most: int) -> None:
    """Label rungs on the y axis by temperature, `most` of them at most."""
    shown = np.unique(np.linspace(0, len(temperatures) - 1, most).round().astype(int))
    axis.set_yticks(shown, [f"{temperatures[r]:.0f} K" for r in shown], fontsize=8)


def _relaxation(ps: float, interval: float) -> str:
    if ps == float("inf"):
        return "no time that could be seen"
    return f"less than {number(interval)} ps" if ps < interval else f"{number(ps)} ps"
