"""Figures of a sweep: ESS and energy W2 against energies, and against what was swept."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..report.plotting import COLOURS, MARKERS, REFERENCE_COLOUR, WIDTH_IN, Picture, stacked, styled
from .config import Metric, SweepJob
from .outcomes import Outcome, best_of_each, score

LABELS: dict[Metric, tuple[str, float]] = {"ess": ("ESS / %", 100.0), "energy_w2": ("energy W₂ / kT", 1.0)}
COLUMNS = 3
WIDE = 20.0  # a ratio of values that asks for a logarithmic axis
MAX_NAMED = 8  # values of a swept key on an axis


@styled
def plot_sweep(job: SweepJob, found: Sequence[Outcome]) -> list[Picture]:
    """Plot all figures for which there are numbers, in the order of the page."""
    metrics: list[Metric] = [m for m in LABELS if any(o.curve(m) for o in found)]
    styles = _styles(found)
    return [
        *_best_trials(job, found, metrics, styles),
        *_all_trials(found, metrics, styles),
        *_settings(job, found, styles),
    ]


def _styles(found: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    names = dict.fromkeys(o.trial.objective for o in found)
    return {
        name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]} for i, name in enumerate(names)
    }


def _best_trials(
    job: SweepJob, found: Sequence[Outcome], metrics: Sequence[Metric], styles: dict[str, dict[str, Any]]
) -> Iterator[Picture]:
    """Plot the best trial of each objective, together."""
    leaders = best_of_each(found, job.metric)
    if not leaders or not metrics:
        return
    figure, axes = stacked(len(metrics), 0.9 + 2.3 * len(metrics))
    for axis, metric in zip(axes, metrics, strict=True):
        for name, o in leaders.items():
            _plot_curve(axis, o, metric, styles[name], label=f"{name} ({o.trial.number})")
        _scale_axis(axis, metric, found)
    axes[-1].set_xlabel("energies spent")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    yield Picture(
        name="champions",
        section="Against energies",
        caption="The best trial of each objective (its number in brackets), finished or not; dashed: the flow as "
        "given. All trials draw from the same latents in the same round, so what their curves share is the luck "
        "of those draws. Draws at another temperature are left out: anneal shows at the end of its ladder only.",
        figure=figure,
    )


def _all_trials(
    found: Sequence[Outcome], metrics: Sequence[Metric], styles: dict[str, dict[str, Any]]
) -> Iterator[Picture]:
    """Plot every trial, a panel an objective, the others' in grey behind."""
    for metric in metrics:
        rows = math.ceil(len(styles) / COLUMNS)
        columns = min(COLUMNS, len(styles))
        figure = Figure(figsize=(WIDTH_IN, 0.5 + 1.55 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axis in panels.flat[len(styles) :]:
            axis.set_axis_off()
        for axis, (name, style) in zip(panels.flat, styles.items(), strict=False):
            for o in found:
                if o.trial.objective != name:
                    _plot_curve(axis, o, metric, {"color": "#d5d8db", "marker": ""}, linewidth=0.8)
            for o in found:
                if o.trial.objective == name:
                    _plot_curve(axis, o, metric, style, linewidth=1.1, markersize=2.5)
                    _plot_end(axis, o, metric)
            axis.set_title(name, color=style["color"])
            _scale_axis(axis, metric, found, label=False)
        figure.supylabel(LABELS[metric][0], fontsize=10)
        figure.supxlabel("energies spent", fontsize=10)
        yield Picture(
            name=f"trials_{metric}",
            section="Against energies",
            caption=f"{'ESS' if metric == 'ess' else 'Energy W₂'} of all trials by objective; grey: those of the other "
            "objectives. A bar ends a trial that was stopped for others that were better, a cross one that diverged.",
            figure=figure,
        )


def _settings(job: SweepJob, found: Sequence[Outcome], styles: dict[str, dict[str, Any]]) -> Iterator[Picture]:
    """Plot the last metric of each trial against each swept setting."""
    keys = list(dict.fromkeys(key for o in found for key in o.trial.settings))
    reached = [(o, curve[-1][1]) for o in found if (curve := o.curve(job.metric)) and o.status in ("done", "stopped")]
    if not keys or len(reached) < 2:
        return
    rows = math.ceil(len(keys) / 2)
    figure = Figure(figsize=(WIDTH_IN, 0.5 + 2.2 * rows), layout="constrained")
    panels = figure.subplots(rows, min(2, len(keys)), sharey=True, squeeze=False)
    for axis in panels.flat[len(keys) :]:
        axis.set_axis_off()
    label, factor = LABELS[job.metric]
    for axis, key in zip(panels.flat, keys, strict=False):
        position = _value_axis(axis, key, [o.trial.settings[key] for o, _ in reached if key in o.trial.settings])
        for o, value in reached:
            if key in o.trial.settings:
                filled = "full" if o.status == "done" else "none"
                at = position(o.trial.settings[key])
                axis.plot(at, factor * value, linestyle="", fillstyle=filled, markersize=5, **styles[o.trial.objective])
        axis.set_xlabel(key)
    for row in panels:
        row[0].set_ylabel(label)
    for name, style in styles.items():
        panels.flat[0].plot([], [], linestyle="", label=name, **style)
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    yield Picture(
        name="settings",
        section="Against settings",
        caption="What each trial reached by its settings. Hollow: stopped early, so with fewer energies.",
        figure=figure,
    )


def _value_axis(axis: Axes, key: str, values: Sequence[Any]) -> Any:
    """Prepare the axis of a setting; returns a function from a value to its position there."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if numbers and len(set(values)) > 1:
        if min(values) > 0 and max(values) / min(values) > 8:
            axis.set_xscale("log")
        return lambda value: value
    names = list(dict.fromkeys(str(v) for v in values))
    axis.set_xticks(range(len(names[:MAX_NAMED])), names[:MAX_NAMED])
    axis.set_xlim(-0.5, len(names) - 0.5)
    return lambda value: names.index(str(value))


def _plot_curve(axis: Axes, o: Outcome, metric: Metric, style: dict[str, Any], **line: Any) -> None:
    if curve := o.curve(metric):
        energies, values = np.array(curve).T
        options: dict[str, Any] = {"linewidth": 1.5, "markersize": 4} | style | line
        axis.plot(energies, LABELS[metric][1] * values, **options)


def _plot_end(axis: Axes, o: Outcome, metric: Metric) -> None:
    if (curve := o.curve(metric)) and o.status in ("stopped", "diverged", "failed"):
        marker = "|" if o.status == "stopped" else "x"
        axis.plot(curve[-1][0], LABELS[metric][1] * curve[-1][1], marker=marker, markersize=9, color="#000000")


def _scale_axis(axis: Axes, metric: Metric, found: Sequence[Outcome], label: bool = True) -> None:
    values = [value for o in found for _, value in o.curve(metric)]
    if metric == "energy_w2" and min(values) > 0 and max(values) > WIDE * min(values):
        axis.set_yscale("log")
    else:
        axis.set_ylim(0.0, 1.08 * LABELS[metric][1] * max(values))
    starts = (score(o.rounds[0], o.trial.job, metric) for o in found if o.rounds)
    if (start := next(filter(math.isfinite, starts), None)) is not None:
        axis.axhline(LABELS[metric][1] * start, color=REFERENCE_COLOUR, linestyle="--", linewidth=0.8)
    if label:
        axis.set_ylabel(LABELS[metric][0])
