"""Figures of structures: backbone angles of each residue, and the two slowest coordinates, beside the reference."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.observables import Tica, dihedrals, project
from boltzray.molecules.sequences import caps, inner_letters, n_residues

from .contents import Report, ancestors_needed, quantiles
from .plotting import MAX_FREE_ENERGY_KT, REFERENCE_COLOUR, WIDTH_IN, Floats, Picture, colours, finite

BINS = 36  # of 10 degrees
TICA_BINS = 39
COARSE = 3  # bins of a map that make one of a difference, which would be noise otherwise
DIFFERENCE = (
    " Below, in bins three times as wide: share of the weight minus that of the reference, red where there is more. "
    "Misplaced: what would have to be moved to another bin; part of it is noise, as two halves of the MD show"
)
MEANING = "free energy in kT above the lowest bin of each panel; white: no sample, or more than 7 kT"


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """One set of conformations to plot: those with a weight. Shape: positions_nm (T, N, 3), weights (T,).

    `halfway`: the first of the reference's second half.
    """

    title: str
    positions_nm: NDArray[np.floating]
    weights: Floats
    reference: bool = False
    halfway: int = 0


def panels(report: Report) -> list[Panel]:
    """List all ensembles, then the reference."""
    sets = [(f"{e.name}\n{effective(e)}", e.positions_nm, e.weights) for e in report.ensembles]
    if report.reference:
        r = report.reference
        sets.append((f"reference MD\n{r.size}", r.positions_nm, r.weights))
    result = []
    for k, (title, positions, weights) in enumerate(sets):
        used = (weights > 0) & np.isfinite(positions).all(axis=(1, 2))
        panel = Panel(title=title, positions_nm=positions[used], weights=weights[used])
        if k == len(report.ensembles) and report.reference:
            panel = replace(panel, reference=True, halfway=int(used[: report.reference.halfway].sum()))
        result.append(panel)
    return result


def effective(ensemble: Ensemble) -> str:
    """Describe how many draws the panel is worth."""
    n, ancestors = ensemble.effective_draws, ensemble.diagnostics.get("n_roots", np.inf)
    few = ancestors < ancestors_needed(len(ensemble.weights))
    copies = f", {ancestors:.0f} ancestor{'s' * (ancestors != 1)}" if few else ""
    return f"ESS {n:.{0 if n >= 10 else 1}f}{copies}"


# --- backbone angles ----------------------------------------------------------------------------


def angle_pairs(phi: Floats, psi: Floats, sequence: str) -> list[tuple[str, str, Floats, Floats]]:
    """Return names and angles in degrees, (φ name, ψ name, φ, ψ), of residues that have both; of a dipeptide φ2 and ψ1.

    Shape: (T, R - 1) each -> lists of (T,). Without a cap the first residue has no φ, and the last no ψ.
    """
    n_capped, c_capped = caps(sequence)
    first, length = (0 if n_capped else 1), phi.shape[1] + (not n_capped)  # the first residue with a φ, and all
    with_psi = range(length if c_capped else length - 1)
    pairs = [(i, i) for i in range(first, length) if i in with_psi]
    if not pairs and phi.shape[1] and psi.shape[1]:
        pairs = [(first, with_psi[-1])]
    labels = inner_letters(sequence) if n_residues(sequence) == length else [""] * length
    return [
        (f"φ({labels[i]}{i + 1})", f"ψ({labels[j]}{j + 1})", np.degrees(phi[:, i - first]), np.degrees(psi[:, j]))
        for i, j in pairs
    ]


def weight_fractions(x: Floats, y: Floats, weights: Floats, edges: tuple[Floats, Floats]) -> Floats:
    """Fraction of the weight in each bin, zero without any weight. Shape: (T,) each -> (bins, bins)."""
    counts = np.histogram2d(x, y, bins=edges, weights=weights)[0]
    return counts / max(weights.sum(), np.finfo(np.float64).tiny)


def free_energy(fractions: Floats) -> Floats:
    """−ln of the fractions, its minimum at zero. NaN where there is nothing, or less than the colour scale shows."""
    with np.errstate(divide="ignore", invalid="ignore"):
        surface = -np.log(fractions / fractions.max())
    return np.where(surface <= MAX_FREE_ENERGY_KT, surface, np.nan)


def ramachandran(report: Report) -> Iterator[Picture]:
    """Plot for each residue every set, and below it the difference from the reference."""
    found, edges = panels(report), np.linspace(-180, 180, BINS + 1)
    angles = [dihedrals(panel.positions_nm, report.peptide.topology)[:2] for panel in found]
    columns = [angle_pairs(*pair, report.peptide.sequence) for pair in angles]
    for row in range(len(columns[0]) if columns else 0):
        maps = [
            weight_fractions(*c[row][2:], panel.weights, (edges, edges))
            for c, panel in zip(columns, found, strict=True)
        ]
        phi_name, psi_name = columns[0][row][:2]
        caption = f"{phi_name} and {psi_name}: {MEANING}; bins of 10°. Generated conformations count with their weight."
        if report.reference and report.ensembles:
            caption += DIFFERENCE + f" (here {_halves(found[-1], *columns[-1][row][2:], (edges, edges)):.0f} %)."
        yield Picture(
            name=f"ramachandran_{row + 1}",
            section="Backbone angles",
            caption=caption,
            figure=_maps(found, maps, (edges, edges), f"{phi_name} / °", f"{psi_name} / °", ticks=(-120, 0, 120)),
        )


def _maps(
    found: list[Panel], maps: list[Floats], edges: tuple[Floats, Floats], xlabel: str, ylabel: str, ticks: Any = None
) -> Figure:
    """A row of free energies, and a row of differences from the reference if there is one."""
    reference = next((m for m, panel in zip(maps, found, strict=True) if panel.reference), None)
    compared = reference is not None and len(maps) > 1
    columns, rows = len(maps), 2 if compared else 1
    side = (WIDTH_IN - 1.3) / max(columns, 2)
    figure = Figure(figsize=(WIDTH_IN, 0.35 + rows * (side + 0.62)), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axis, panel, fractions in zip(axes[0], found, maps, strict=True):
        image = _panel(axis, edges, free_energy(fractions), cmap="viridis", vmin=0, vmax=MAX_FREE_ENERGY_KT)
        axis.set_title(panel.title)
    bar: dict[str, Any] = {"location": "right", "aspect": 14, "pad": 0.02, "shrink": 0.85}
    figure.colorbar(image, ax=axes[0], label="free energy / kT", **bar)
    if compared and reference is not None:
        differences = [100 * (_coarse(fractions) - _coarse(reference)) for fractions in maps[:-1]]
        limit = max(0.1, *(float(np.abs(d).max()) for d in differences))
        for axis, difference in zip(axes[1], differences, strict=False):
            kept = np.where(difference == 0, np.nan, difference)
            wide = edges[0][::COARSE], edges[1][::COARSE]
            image = _panel(axis, wide, kept, cmap="RdBu_r", vmin=-limit, vmax=limit)
            axis.set_title(f"minus MD\n{0.5 * np.abs(difference).sum():.0f} % misplaced")
        axes[1][-1].set_visible(False)
        figure.colorbar(image, ax=axes[1], label="difference / %", **bar)
    for axis in axes[-1]:
        axis.set_xlabel(xlabel)
    axes[0][-1].xaxis.set_tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel(ylabel)
    if ticks:
        for axis in axes.flat:
            axis.set(xticks=ticks, yticks=ticks)
    return figure


def _halves(panel: Panel, x: Floats, y: Floats, edges: tuple[Floats, Floats]) -> float:
    """Per cent misplaced between the first and the second half of the reference."""
    half, weights = panel.halfway, panel.weights
    first = weight_fractions(x[:half], y[:half], weights[:half], edges)
    second = weight_fractions(x[half:], y[half:], weights[half:], edges)
    return float(50 * np.abs(_coarse(first) - _coarse(second)).sum())


def _coarse(fractions: Floats) -> Floats:
    """Bins added up, `COARSE` by `COARSE`."""
    n = len(fractions) // COARSE
    return fractions.reshape(n, COARSE, n, COARSE).sum(axis=(1, 3))


def _panel(axis: Axes, edges: tuple[Floats, Floats], values: Floats, **colours: Any) -> Any:
    image = axis.pcolormesh(*edges, values.T, rasterized=True, **colours)
    axis.set(xlim=(edges[0][0], edges[0][-1]), ylim=(edges[1][0], edges[1][-1]), box_aspect=1)
    axis.spines[:].set_visible(True)
    return image


# --- slow coordinates ---------------------------------------------------------------------------


def tica_plane(report: Report) -> Iterator[Picture]:
    """Plot the free energy in the plane of the two slowest coordinates, and along the slowest."""
    if report.reference is None or report.reference.tica is None:
        return
    found = panels(report)
    planes = [_project(report.reference.tica, panel, report) for panel in found]
    edges = tuple(_edges([plane[:, k] for plane in planes], found[-1].weights) for k in range(2))
    maps = [
        weight_fractions(plane[:, 0], plane[:, 1], panel.weights, (edges[0], edges[1]))
        for plane, panel in zip(planes, found, strict=True)
    ]
    yield Picture(
        name="tica",
        section="Slow coordinates",
        caption=f"The two slowest independent components of the reference MD: {MEANING}."
        + (
            DIFFERENCE
            + f" (here {_halves(found[-1], planes[-1][:, 0], planes[-1][:, 1], (edges[0], edges[1])):.0f} %)."
            if maps[1:]
            else ""
        ),
        figure=_maps(found, maps, (edges[0], edges[1]), "TIC 1", "TIC 2"),
    )
    half = found[-1].halfway
    figure = Figure(figsize=(WIDTH_IN, 2.7), layout="constrained")
    axis = figure.subplots()
    for part, style in ((slice(half), ":"), (slice(half, None), "--")):
        line: dict[str, Any] = {"color": REFERENCE_COLOUR, "linestyle": style, "linewidth": 1}
        _profile(axis, planes[-1][part, 0], found[-1].weights[part], edges[0], **line)
    for plane, panel, colour in zip(planes, found, [*_take(len(found) - 1), REFERENCE_COLOUR], strict=True):
        label, width = panel.title.splitlines()[0], 2.6 if panel.reference else 1.4
        _profile(axis, plane[:, 0], panel.weights, edges[0], color=colour, linewidth=width, label=label)
    axis.set(xlabel="TIC 1", ylabel="free energy / kT", ylim=(0, MAX_FREE_ENERGY_KT), xlim=edges[0][[0, -1]])
    axis.legend()
    caption = "Free energy along the slowest coordinate. Thin grey lines: the two halves of the reference MD, whose "
    yield Picture(
        name="tica_profile",
        section="Slow coordinates",
        caption=caption + "distance from each other is what the reference itself does not know.",
        figure=figure,
    )


def _project(tica: Tica, panel: Panel, report: Report) -> Floats:
    if not len(panel.positions_nm):
        return np.empty((0, 2))
    return project(tica, panel.positions_nm, report.peptide.topology)[:, :2]


def _edges(values: list[Floats], weights: Floats) -> Floats:
    """Bins over what the reference, the last of `values`, visits, with room for what it does not.

    A weighted one visits what has weight: frames of hot replicas are far out, and count next to nothing.
    """
    *others, reference = values
    low, high = quantiles(reference, (0.0005, 0.9995), weights) if np.ptp(weights) else np.quantile(reference, (0, 1))
    seen = np.concatenate([(low, high), *(np.quantile(v, (0.01, 0.99)) for v in map(finite, others) if len(v))])
    room = 0.5 * (high - low)
    return np.linspace(max(min(low, seen.min()), low - room), min(max(high, seen.max()), high + room), TICA_BINS + 1)


def _profile(axis: Axes, values: Floats, weights: Floats, edges: Floats, **line: Any) -> None:
    counts = np.histogram(values, edges, weights=weights)[0]
    axis.plot((edges[1:] + edges[:-1]) / 2, free_energy(counts), **line)


def _take(n: int) -> list[str]:
    return [colour for colour, _ in zip(colours(), range(n), strict=False)]
