"""Figures of the samplers: whether the weights can be believed, and how SMC went."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from boltzray.molecules.ensemble import Ensemble

from .contents import ancestors_needed
from .plotting import COLOURS, REFERENCE_COLOUR, WIDTH_IN, Floats, Picture, colours, stacked


def weights(ensembles: Sequence[Ensemble]) -> Iterator[Picture]:
    """Plot sorted weights, and how the effective number grows with that of the draws."""
    figure = Figure(figsize=(WIDTH_IN, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    for ensemble, colour in zip(ensembles, colours(), strict=False):
        ordered = np.sort(ensemble.weights)[::-1]
        n = len(ordered)
        rank = np.arange(1, n + 1) / n
        some = n * ordered > 1e-6  # smaller ones would stretch the axis, and change no average
        marker = "o" if some.sum() < 10 else None
        label = ensemble.name
        if (k_hat := ensemble.diagnostics.get("k_hat")) is not None:
            label += f", k̂ {k_hat:.2f}"
        left.plot(rank[some], n * ordered[some], color=colour, marker=marker, markersize=3, label=label)
        right.plot(np.r_[0.0, rank], np.r_[0.0, np.cumsum(ordered)], color=colour)
    heights = np.concatenate([len(e.weights) * e.weights for e in ensembles] + [np.ones(1)])
    low, high = heights[heights > 1e-6].min() / 2, heights.max() * 2  # given, because log axes fail without data
    left.axhline(1.0, color=REFERENCE_COLOUR, linewidth=0.8, linestyle="--")
    left.set(xscale="log", yscale="log", xlabel="rank / number of draws", ylabel="weight / mean weight")
    left.set(xlim=(0.5 / max(len(e.weights) for e in ensembles), 1.5), ylim=(low, high))
    left.minorticks_off()  # slow on logarithmic axes
    left.legend(loc="lower left")
    right.plot((0, 1), (0, 1), color=REFERENCE_COLOUR, linewidth=0.8, linestyle="--")
    right.set(xlabel="share of draws, heaviest first", ylabel="share of the weight", ylim=(0, 1.04))
    caption = "Sorted weights, and how much of the weight the heaviest draws hold. Dashed: equal weights."
    yield Picture(name="weights", section="Sampling", caption=caption, figure=figure)
    independent = [e for e in ensembles if e.steps is None and len(e.weights) > 1 and e.weights.any()]
    if independent:
        yield _growth(independent)


def _growth(ensembles: Sequence[Ensemble]) -> Picture:
    figure, (axis,) = stacked(1, 2.7)
    most = 2.0
    for ensemble, colour in zip(ensembles, colours(), strict=False):
        n = np.arange(1, len(ensemble.weights) + 1)
        total, squares = np.cumsum(ensemble.weights), np.cumsum(ensemble.weights**2)
        with np.errstate(invalid="ignore", divide="ignore"):
            axis.plot(n, total**2 / squares, color=colour, linewidth=1.4, label=ensemble.name)
        most = max(most, float(n[-1]))
    axis.plot((1, most), (1, most), color=REFERENCE_COLOUR, linewidth=0.8, linestyle="--", label="equal weights")
    axis.set(xscale="log", yscale="log", xlabel="draws", ylabel="effective draws", xlim=(1, most), ylim=(1, most))
    axis.minorticks_off()
    axis.legend(loc="upper left")
    caption = (
        "Effective draws among the first n. It should grow along the dashed line; where it falls back, a draw with "
        "more weight than all before it has come, and another may."
    )
    return Picture(name="growth", section="Sampling", caption=caption, figure=figure)


def path(ensemble: Ensemble) -> Picture:
    """Plot SMC from the flow to the target, step by step."""
    steps = ensemble.steps or []

    def column(key: str) -> Floats:
        return np.array([s.get(key, np.nan) for s in steps], dtype=np.float64)

    figure, (lam, ess, acceptance, ancestors) = stacked(4, 5.4)
    colour, second = COLOURS[0], COLOURS[1]
    line: dict[str, Any] = {"linewidth": 1.4, "marker": "o" if len(steps) < 10 else None, "markersize": 3}
    lam.plot(column("step"), column("lam"), color=colour, **line)
    lam.set(ylabel="λ", yscale="log")
    ess.plot(column("step"), column("ess"), color=colour, label="ESS / n", **line)
    ess.plot(column("step"), column("cess"), color=second, label="conditional ESS / n", **line | {"linewidth": 1})
    ess.set(ylabel="ESS", ylim=(0, 1.05))
    ess.legend(loc="lower right", ncols=2)
    acceptance.plot(column("step"), column("acceptance"), color=colour, **line)
    acceptance.set(ylabel="acceptance", ylim=(0, 1.05))
    ancestors.plot(column("step"), column("n_roots"), color=colour, **line)
    ancestors.axhline(
        ancestors_needed(len(ensemble.weights)), color=REFERENCE_COLOUR, linestyle="--", linewidth=0.8, label="needed"
    )
    ancestors.set(ylabel="ancestors", yscale="log", xlabel="step", ylim=(0.8, None))
    ancestors.legend(loc="lower left")
    figure.align_ylabels()
    caption = (
        f"{ensemble.name}, from the flow (λ = 0) to the target (λ = 1): effective sample size before resampling, "
        "share of accepted moves, and distinct first ancestors of the particles."
    )
    name = f"path_{ensemble.name.lower()}"
    return Picture(name=name, section="Sampling", caption=caption, figure=figure)


def training(history: list[dict[str, Any]]) -> Picture:
    """Plot the loss over steps."""
    figure, (axis,) = stacked(1, 2.7)
    rows = [(r["step"], r["loss"]) for r in history if "loss" in r]
    steps, losses = np.array(rows, dtype=np.float64).reshape(-1, 2).T
    axis.plot(steps, losses, color=COLOURS[0], linewidth=1.2, marker="o" if len(rows) < 10 else None, markersize=3)
    if np.isfinite(losses).sum() > 20:  # the first steps would flatten the rest
        usual = losses[np.isfinite(losses)]
        axis.set_ylim(top=float(np.quantile(usual, 0.98) + 0.2 * np.ptp(np.quantile(usual, (0.02, 0.98)))))
    axis.set(xlabel="step", ylabel="training loss")
    caption = "Loss in training; the highest values, those of the first steps, may lie above the range."
    return Picture(name="training", section="Training", caption=caption, figure=figure)
