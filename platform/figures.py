"""The figures of the report: what the ensembles look like beside MD, and whether their weights can be believed.

Drawn without pyplot, so that any thread or actor may do it. Energies in kT, angles in degrees.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from molecules.observables import dihedrals

if TYPE_CHECKING:
    from .verdict import Ensemble, Report

Floats = NDArray[np.float64]

WIDTH_IN = 5.6  # a phone shows this at two thirds: ten-point type stays readable
BINS = 36  # of 10 degrees
MAX_FREE_ENERGY_KT = 7.0
MAX_SVG_BYTES = 200_000
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe & Ito: told apart by colour-blind readers
REFERENCE_COLOUR = "#8a8a8a"
STYLE: Any = {  # matplotlib types the keys one by one
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "boltzray",  # equal data, equal bytes
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with the words around it."""

    name: str
    section: str
    caption: str
    figure: Figure

    def png(self) -> bytes:
        """For MLflow, and for the page where the SVG is too large."""
        return self._saved("png", dpi=200)

    def data_uri(self) -> str:
        """The figure as text that a page can hold: SVG, or PNG if that is large."""
        svg = self._saved("svg", metadata={"Date": None})
        kind, data = ("svg+xml", svg) if len(svg) <= MAX_SVG_BYTES else ("png", self.png())
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

    def _saved(self, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(buffer, format=kind, **options)
        return buffer.getvalue()


def draw(report: "Report") -> list[Picture]:
    """All figures for which the report has data, in the order of the page."""
    with matplotlib.rc_context(STYLE):
        pictures = [*_ramachandran(report)]
        if report.ensembles:
            pictures += [*_energies(report), _weights(report.ensembles)]
        pictures += [_path(e) for e in report.ensembles if e.steps]
        if report.training:
            pictures.append(_training(report.training))
    return pictures


def _new(rows: int, height_in: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    return figure, list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])


# --- structures ---------------------------------------------------------------------------------


def angle_pairs(phi: Floats, psi: Floats, sequence: str) -> list[tuple[str, str, Floats, Floats]]:
    """Names and angles in degrees, (φ name, ψ name, φ, ψ), of each inner residue; of a dipeptide φ2 and ψ1.

    Shape: (T, R - 1) each -> lists of (T,). The first residue has no φ and the last no ψ.
    """
    pairs = [(1, 0)] if phi.shape[1] == 1 else [(i, i) for i in range(1, phi.shape[1])]
    labels = list(sequence) if len(sequence) == phi.shape[1] + 1 else [""] * (phi.shape[1] + 1)
    return [
        (f"φ {labels[i]}{i + 1}", f"ψ {labels[j]}{j + 1}", np.degrees(phi[:, i - 1]), np.degrees(psi[:, j]))
        for i, j in pairs
    ]


def free_energy(phi: Floats, psi: Floats, weights: Floats) -> Floats:
    """−ln of the density in bins of 10 degrees, its minimum at zero. Shape: (T,) each -> (36, 36).

    NaN where there is nothing, or so little weight that it lies beyond the colour scale.
    """
    edges = np.linspace(-180, 180, BINS + 1)
    density = np.histogram2d(phi, psi, bins=(edges, edges), weights=weights)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        surface = -np.log(density / density.max())
    return np.where(surface <= MAX_FREE_ENERGY_KT, surface, np.nan)


def _ramachandran(report: "Report") -> Iterator[Picture]:
    sets = [(f"{e.name}\n{_effective(e)}", e.positions_nm, e.weights) for e in report.ensembles]
    if report.reference:
        n = len(report.reference.positions_nm)
        sets.append((f"reference MD\n{n} frames", report.reference.positions_nm, np.full(n, 1.0)))
    columns = []
    for title, positions, weights in sets:
        used = (weights > 0) & np.isfinite(positions).all(axis=(1, 2))
        phi, psi, _ = dihedrals(positions[used], report.peptide.topology)
        columns.append((title, angle_pairs(phi, psi, report.peptide.sequence), weights[used]))
    for row in range(len(columns[0][1]) if columns else 0):
        figure = Figure(figsize=(WIDTH_IN, 1.55 + 4.8 / max(len(columns), 2)), layout="constrained")
        axes = figure.subplots(1, len(columns), sharex=True, sharey=True, squeeze=False)[0]
        for axis, (title, pairs, weights) in zip(axes, columns, strict=True):
            phi_name, psi_name, phi, psi = pairs[row]
            edges = np.linspace(-180, 180, BINS + 1)
            surface = free_energy(phi, psi, weights).T
            image = axis.pcolormesh(
                edges, edges, surface, cmap="viridis", vmin=0, vmax=MAX_FREE_ENERGY_KT, rasterized=True
            )
            axis.set(title=title, xlabel=f"{phi_name} / °", aspect="equal", xlim=(-180, 180), ylim=(-180, 180))
            axis.set(xticks=(-120, 0, 120), yticks=(-120, 0, 120))
            axis.spines[:].set_visible(True)
        axes[0].set_ylabel(f"{psi_name} / °")
        bar: dict[str, Any] = {"location": "bottom", "shrink": 0.7, "aspect": 30}
        figure.colorbar(image, ax=axes, label="free energy / kT", **bar)
        names = f"{phi_name.replace(' ', '')} and {psi_name.replace(' ', '')}"
        yield Picture(
            name=f"ramachandran_{row + 1}",
            section="Backbone angles",
            caption=f"{names}: free energy in kT above the lowest bin of each panel, bins of 10°; white: no sample, "
            f"or more than {MAX_FREE_ENERGY_KT:.0f} kT. Generated conformations count with their weight.",
            figure=figure,
        )


# --- energies -----------------------------------------------------------------------------------


def _energies(report: "Report") -> Iterator[Picture]:
    reference = _finite(report.reference.energy_kT) if report.reference else np.array([])
    drawn = np.concatenate([_finite(e.energy_kT) for e in report.ensembles])
    low, high = _range(reference, 0.999) if len(reference) else _range(drawn, 0.75)
    edges = np.linspace(low, high, 41)
    figure, axes = _new(len(report.ensembles), 0.7 + 1.7 * len(report.ensembles))
    for axis, ensemble, colour in zip(axes, report.ensembles, _colours(), strict=False):
        if len(reference):
            axis.stairs(_density(reference, None, edges), edges, fill=True, color="#cfcfcf", label="reference MD")
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

    energies = [reference, *(_finite(e.energy_kT) for e in report.ensembles)]
    lowest = min((e.min() for e in energies if len(e)), default=0.0)
    if all((e <= high).mean() > 0.9 for e in energies[1:] if len(e)):
        return
    figure, (axis,) = _new(1, 2.9)
    if len(reference):
        _cumulative(axis, reference - lowest, None, color=REFERENCE_COLOUR, linewidth=3, label="reference MD")
    for ensemble, colour in zip(report.ensembles, _colours(), strict=False):
        above = ensemble.energy_kT - lowest
        _cumulative(axis, above, None, color=colour, linestyle=":", label=f"{ensemble.name}, unweighted")
        _cumulative(axis, above, ensemble.weights, color=colour, label=f"{ensemble.name}, weighted")
    axis.set(xscale="log", ylim=(0, 1.02), xlabel="potential energy above the lowest / kT", ylabel="share below")
    axis.set_xlim(left=1.0)
    axis.legend()
    caption = "The same energies on a logarithmic axis, as the share of draws below each energy."
    yield Picture(name="energy_log", section="Energy", caption=caption, figure=figure)


def _range(values: Floats, top: float) -> tuple[float, float]:
    """Where to look: up to the quantile `top`, because draws can reach 10⁷ kT, and room above."""
    if not len(values):
        return 0.0, 1.0
    low, middle, high = np.quantile(values, (0.001, 0.5, top))
    room = max(high - low, 1e-3 * abs(middle), 1.0)
    return float(low - 0.1 * room), float(high + 0.5 * room)


def _density(values: Floats, weights: Floats | None, edges: Floats) -> Floats:
    """Density on the edges; what lies outside still counts in the normalisation."""
    shares = np.full(len(values), 1.0 / len(values)) if weights is None else weights
    inside = np.isfinite(values)
    counts = np.histogram(values[inside], edges, weights=shares[inside])[0]
    return counts / np.diff(edges)


def _cumulative(axis: Axes, values: Floats, weights: Floats | None, **line: Any) -> None:
    order = np.argsort(values)
    shares = np.full(len(values), 1.0 / len(values)) if weights is None else weights
    shown = order[np.isfinite(values[order])]
    axis.step(np.maximum(values[shown], 1.0), np.cumsum(shares[shown]), where="post", **line)


# --- samplers -----------------------------------------------------------------------------------


def _weights(ensembles: Sequence["Ensemble"]) -> Picture:
    figure = Figure(figsize=(WIDTH_IN, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    for ensemble, colour in zip(ensembles, _colours(), strict=False):
        ordered = np.sort(ensemble.weights)[::-1]
        n = len(ordered)
        share = np.arange(1, n + 1) / n
        some = n * ordered > 1e-6  # below, a draw has no say
        marker = "o" if some.sum() < 10 else None
        left.plot(share[some], n * ordered[some], color=colour, marker=marker, markersize=3, label=ensemble.name)
        right.plot(np.r_[0.0, share], np.r_[0.0, np.cumsum(ordered)], color=colour)
    shown = np.concatenate([len(e.weights) * e.weights for e in ensembles] + [np.ones(1)])
    low, high = shown[shown > 1e-6].min() / 2, shown.max() * 2  # given, because log axes fail without data
    left.axhline(1.0, color=REFERENCE_COLOUR, linewidth=0.8, linestyle="--")
    left.set(xscale="log", yscale="log", xlabel="rank / number of draws", ylabel="weight / mean weight")
    left.set(xlim=(0.5 / max(len(e.weights) for e in ensembles), 1.5), ylim=(low, high))
    left.legend(loc="upper right")
    right.plot((0, 1), (0, 1), color=REFERENCE_COLOUR, linewidth=0.8, linestyle="--")
    right.set(xlabel="share of draws, heaviest first", ylabel="share of the weight", ylim=(0, 1.04))
    caption = "Sorted weights, and how much of the weight the heaviest draws hold. Dashed: equal weights."
    return Picture(name="weights", section="Sampling", caption=caption, figure=figure)


def _path(ensemble: "Ensemble") -> Picture:
    steps = ensemble.steps or []

    def column(key: str) -> Floats:
        return np.array([s.get(key, np.nan) for s in steps], dtype=np.float64)

    figure, (lam, ess, acceptance, roots) = _new(4, 5.4)
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
    roots.plot(column("step"), column("n_roots"), color=colour, **line)
    roots.axhline(ensemble.roots_needed, color=REFERENCE_COLOUR, linestyle="--", linewidth=0.8, label="needed")
    roots.set(ylabel="ancestors", yscale="log", xlabel="step", ylim=(0.8, None))
    roots.legend(loc="lower left")
    figure.align_ylabels()
    caption = (
        f"{ensemble.name}, from the flow (λ = 0) to the target (λ = 1): effective sample size before resampling, "
        "share of accepted moves, and distinct first ancestors of the particles."
    )
    name = f"path_{ensemble.name.lower()}"
    return Picture(name=name, section="Sampling", caption=caption, figure=figure)


def _training(training: list[dict[str, Any]]) -> Picture:
    figure, (axis,) = _new(1, 2.7)
    rows = [(r["step"], r["loss"]) for r in training if "loss" in r]
    steps, losses = np.array(rows, dtype=np.float64).reshape(-1, 2).T
    axis.plot(steps, losses, color=COLOURS[0], linewidth=1.2, marker="o" if len(rows) < 10 else None, markersize=3)
    if np.isfinite(losses).sum() > 20:  # the first steps would flatten the rest
        usual = losses[np.isfinite(losses)]
        axis.set_ylim(top=float(np.quantile(usual, 0.98) + 0.2 * np.ptp(np.quantile(usual, (0.02, 0.98)))))
    axis.set(xlabel="step", ylabel="training loss")
    caption = "Loss in training; the highest values, those of the first steps, may lie above the range."
    return Picture(name="training", section="Training", caption=caption, figure=figure)


# --- shared -------------------------------------------------------------------------------------


def _colours() -> Iterator[str]:
    while True:
        yield from COLOURS


def _finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]


def _effective(ensemble: "Ensemble") -> str:
    roots = ensemble.diagnostics.get("n_roots", np.inf)
    few = f", {roots:.0f} ancestor{'s' * (roots != 1)}" if roots < ensemble.roots_needed else ""
    return f"ESS {ensemble.effective:.{0 if ensemble.effective >= 10 else 1}f}{few}"
