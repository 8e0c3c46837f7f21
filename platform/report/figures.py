"""Figures of a report, in the order of its page."""

from .contents import Report
from .figures_budgets import budgets
from .figures_energies import energies
from .figures_molecules import conformations
from .figures_observables import observables
from .figures_sampling import path, training, weights
from .figures_structures import ramachandran, tica_plane
from .figures_torsions import torsions
from .plotting import Picture, styled

PLOTTED = ("basins",)  # others are in the table: a figure takes half a second


@styled
def plot_report(report: Report) -> list[Picture]:
    """Plot all figures for which the report has data."""
    rows = [row for row in report.observables if row.group in PLOTTED]
    pictures = [
        *conformations(report),
        *ramachandran(report),
        *torsions(report),
        *tica_plane(report),
        *observables(report.frame_sets, rows),
    ]
    if report.ensembles:
        pictures += [*energies(report), *weights(report.ensembles)]
    pictures += [path(e) for e in report.ensembles if e.steps]
    pictures += budgets(report.curves)
    if report.training:
        pictures.append(training(report.training))
    return pictures
