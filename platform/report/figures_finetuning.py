"""Figure of a finetuning to many peptides: each one's ESS before and after."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from .plotting import COLOURS, MARKERS, REFERENCE_COLOUR, WIDTH_IN, Picture, styled

LEAST = 1e-4  # ESS that is still drawn
NAMED = 40  # peptides that have room for their names


@styled
def plot_peptides(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """Plot ESS after against ESS before, in %: above the line a flow has become better."""
    figure = Figure(figsize=(WIDTH_IN, WIDTH_IN), layout="constrained")
    axis = figure.add_subplot()
    values = [100 * max(row[key], LEAST) for row in rows for key in ("ess_before", "ess_after")]
    ends = (min([10.0, *values]) / 1.2, 110.0)
    axis.plot(ends, ends, color=REFERENCE_COLOUR, linewidth=0.8)
    for role, colour, marker in zip(("learned", "validation"), COLOURS, MARKERS, strict=False):
        own = [row for row in rows if row["role"] == role]
        x, y = ([100 * max(row[f"ess_{when}"], LEAST) for row in own] for when in ("before", "after"))
        if own:
            axis.plot(x, y, marker, color=colour, markersize=4, alpha=0.7, label=f"{role} ({len(own)})")
        for row, at in zip(own, zip(x, y, strict=True), strict=True):
            if len(rows) <= NAMED:
                axis.annotate(row["peptide"], at, xytext=(3, 2), textcoords="offset points", fontsize=6)
    axis.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
    axis.set(xlabel="ESS before / %", ylabel="ESS after / %")
    axis.legend(loc="upper left")
    caption = "ESS of each peptide before and after finetuning, in % of its draws."
    return Picture(name="peptides", section="Peptides", caption=caption, figure=figure)
