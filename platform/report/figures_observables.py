"""Figures of observables: each set's value with its interval, row by row."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from .observable_rows import FrameSet, ObservableRow
from .plotting import MARKERS, REFERENCE_COLOUR, WIDTH_IN, Picture, colours

MAX_ROWS = 30


def observables(sets: Sequence[FrameSet], rows: Sequence[ObservableRow]) -> Iterator[Picture]:
    """Plot the rows of each group: shares in per cent, others in their unit; groups of several units are left out."""
    for group in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == group][:MAX_ROWS]
        if len({row.unit for row in members}) == 1:
            yield Picture(
                name="observables_" + "_".join(group.replace("³", "3").lower().split()),
                section="Observables",
                caption=f"{group[0].upper()}{group[1:]} with 95 % intervals. Hollow: not to be used, see the table.",
                figure=_dots(sets, members),
            )


def _dots(sets: Sequence[FrameSet], rows: Sequence[ObservableRow]) -> Figure:
    height = 0.5 + len(rows) * (0.14 + 0.11 * len(sets))
    figure = Figure(figsize=(WIDTH_IN, max(height, 1.2)), layout="constrained")
    axis = figure.subplots()
    scale = 100.0 if not rows[0].unit else 1.0
    palette = colours()
    for k, frames in enumerate(sets):
        colour = REFERENCE_COLOUR if frames.reference else next(palette)
        offset = (k - (len(sets) - 1) / 2) * 0.7 / len(sets)
        for i, row in enumerate(rows):
            average = row.estimates[k]
            if not np.isfinite(average.value):
                continue
            ends = [[average.value - average.low], [average.high - average.value]]
            reach = scale * np.nan_to_num(np.clip(ends, 0, None), posinf=0.0)
            axis.errorbar(
                scale * average.value,
                i + offset,
                xerr=reach,
                fmt=MARKERS[k % len(MARKERS)],
                color=colour,
                markerfacecolor=colour if average.usable else "white",
                markersize=4,
                elinewidth=1.2,
                label=frames.name if i == 0 else None,
            )
    axis.set_yticks(range(len(rows)), [row.name for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlabel("share / %" if not rows[0].unit else rows[0].unit)
    axis.grid(axis="x", color=REFERENCE_COLOUR, alpha=0.25, linewidth=0.6)
    handles = dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=min(4, len(sets)))
    return figure
