"""Figures of many peptides."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ..report.plotting import REFERENCE_COLOUR, WIDTH_IN, Picture, colours
from .summary_rows import Row


def strips(rows: Sequence[Row], names: Sequence[str], labels: Mapping[str, str], floor: str) -> Iterator[Picture]:
    """Plot each metric that is known, of each peptide, by length, with a bar at the median."""
    usable = [row for row in rows if row.metrics]
    samplers = list(dict.fromkeys(row.sampler for row in usable))
    lengths = sorted({row.length for row in usable})
    known = [name for name in names if any(row.metrics.get(name, 0.0) > 0 for row in usable)]
    if not known:
        return
    columns = min(2, len(known))
    lines = -(-len(known) // columns)
    figure = Figure(figsize=(WIDTH_IN, 2.5 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[len(known) :]:
        axis.set_axis_off()
    style = dict(zip([s for s in samplers if s != floor], colours(), strict=False)) | {floor: REFERENCE_COLOUR}
    for axis, name in zip(axes, known, strict=False):
        for k, sampler in enumerate(samplers):
            for at, length in enumerate(lengths):
                own = (row for row in usable if (row.sampler, row.length) == (sampler, length))
                y = np.array([row.metrics[name] for row in own if row.metrics.get(name, 0.0) > 0])
                if not len(y):
                    continue
                x = at + 0.22 * (k - (len(samplers) - 1) / 2)
                jitter = 0.07 * np.cos(np.arange(len(y)) * 2.4)  # the same every time
                axis.plot(x + jitter * (len(y) > 1), y, "o", color=style[sampler], markersize=3, alpha=0.6)
                axis.plot((x - 0.1, x + 0.1), [np.median(y)] * 2, color=style[sampler], linewidth=2)
        axis.set(title=labels[name], yscale="log", xlim=(-0.6, len(lengths) - 0.4))
        axis.set_xticks(range(len(lengths)), [f"{length} residues" if length else "other" for length in lengths])
    handles = [axes[0].plot([], [], "o", color=style[s], label=s)[0] for s in samplers]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(samplers))
    caption = "Every peptide is a dot; bars are medians."
    if floor in samplers:
        caption += " Grey: the two halves of the reference MD against each other."
    yield Picture(name="peptides", section="Peptides", caption=caption, figure=figure)
