"""Figure of populations against time: when each state's share has settled, and whether independent runs agree."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .plotting import COLOURS, REFERENCE_COLOUR, WIDTH_IN, Floats, Picture, time_axis
from .simulation_contents import HasEstimate

PANELS = 6
POINTS = 300  # of a line, at most
MIRRORED = 0.005  # two curves whose sum stays this close to 1 say the same


def populations(
    estimates: Sequence[HasEstimate], occupied: Sequence[NDArray[Any]], interval_ps: float
) -> Iterator[Picture]:
    """Plot running shares of the states whose shares are the least certain; `occupied`: (T_i, S) of each run."""
    chosen = least_certain(estimates, occupied)
    if not chosen:
        return
    columns = min(2, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(WIDTH_IN, 0.6 + 1.55 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False)
    longest = max(map(len, occupied))
    points = np.unique(np.linspace(1, longest, min(longest, POINTS)).round().astype(int))
    unit, label = time_axis(longest * interval_ps)
    time = points * interval_ps / unit
    style = {"marker": "o" if longest < 10 else None, "markersize": 4, "clip_on": False}
    for axis, state in zip(axes.ravel(), chosen, strict=False):
        runs = [run[:, state] for run in occupied]
        for run in runs:
            own = points <= len(run)
            shares = running_share([run], points[own])
            axis.plot(time[own], shares, color=COLOURS[0], alpha=0.45, linewidth=0.7, **style)
        axis.plot(time, running_share(runs, points), color=COLOURS[6], linewidth=1.8, **style)
        estimate = estimates[state]
        if np.isfinite((estimate.low, estimate.high)).all():
            axis.axhspan(estimate.low, estimate.high, color=COLOURS[1], alpha=0.18, linewidth=0)
        if np.isfinite(estimate.share):
            axis.axhline(estimate.share, color=COLOURS[1], linestyle="--", linewidth=1)
        axis.set(title=estimate.label, xlim=(0, time[-1]))
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(MaxNLocator(4, prune="upper"))
        axis.grid(axis="y", color=REFERENCE_COLOUR, alpha=0.2, linewidth=0.6)
    for axis in axes[-1]:
        axis.set_xlabel(f"time of a run / {label}")
    for axis in axes.ravel()[len(chosen) :]:
        axis.set_axis_off()
    figure.supylabel("share of the frames so far", fontsize=10)
    caption = (
        f"Share of each state in the frames so far: {len(occupied)} independent run{'s' * (len(occupied) != 1)} (thin) "
        "and all together (thick). Dashed and shaded: the final estimate and its 95 % interval. Lines that have not "
        "come together, or still drift, say that the runs are too short."
    )
    if len(chosen) < len(estimates):
        caption += (
            f" Shown: the {len(chosen)} least certain of {len(estimates)} states; of mirror images one, and none that "
            "no run has entered."
        )
    yield Picture(name="populations", section="Populations", caption=caption, figure=figure)


def least_certain(estimates: Sequence[HasEstimate], occupied: Sequence[NDArray[Any]]) -> list[int]:
    """Choose states by the width of their interval, of two that mirror each other the first; none without a line."""
    width = np.array([round(estimate.high - estimate.low, 6) for estimate in estimates])  # of α and β the first
    order = np.argsort(-np.where(np.isfinite(width), width, np.inf), kind="stable")
    chosen: list[int] = []
    for state in order:
        mirrors = (np.mean(np.concatenate([r[:, state] == r[:, other] for r in occupied])) for other in chosen)
        seen = any(run[:, state].any() for run in occupied)
        if len(chosen) < PANELS and seen and all(same > MIRRORED for same in mirrors):
            chosen.append(int(state))
    return chosen


def running_share(runs: Sequence[NDArray[Any]], points: NDArray[np.int64]) -> Floats:
    """Return the share of the first n frames of each run that are in a state, n in `points`; ended runs count whole.

    Shape: (T_i,) each -> as points.
    """
    sums = [np.concatenate([[0.0], np.cumsum(run, dtype=np.float64)]) for run in runs]
    inside = sum((total[np.minimum(points, len(total) - 1)] for total in sums), np.zeros(len(points)))
    frames = sum((np.minimum(points, len(total) - 1) for total in sums), np.zeros(len(points)))
    shares: Floats = inside / frames
    return shares
