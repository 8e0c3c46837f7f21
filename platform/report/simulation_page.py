"""The page of a simulation: one HTML file that says first whether the shares of states have converged."""

from pathlib import Path

from .figures_exchange import exchange
from .figures_populations import populations
from .page import save_figures, write_page
from .plotting import Picture, styled
from .simulation_contents import SimulationReport, rung_rows, state_rows, summary


@styled
def plot_simulation(report: SimulationReport) -> list[Picture]:
    """Plot populations against time, then the ladder. Raises: ValueError for ladders of several temperatures."""
    return [*populations(report.estimates, report.occupied, report.interval_ps), *exchange(report.ladders)]


def write_simulation_page(path: Path, report: SimulationReport) -> list[Path]:
    """Write the page, and its figures as PNG files into `STEM_figures/` beside it; returns all paths, the page first.

    Raises: ValueError for ladders of several temperatures.
    """
    pictures = plot_simulation(report)
    method = "Replica exchange" if report.ladders else "Molecular dynamics"
    page = write_page(
        path,
        "simulation.html.j2",
        title=f"{method} of {report.peptide.sequence}",
        summary=summary(report),
        report=report,
        states=state_rows(report),
        rungs=rung_rows(report.ladders) if report.ladders else [],
        base_k=f"{report.ladders[0].temperatures_k[0]:.0f}" if report.ladders else "",
        pictures=pictures,
    )
    return [page, *save_figures(path.with_name(f"{path.stem}_figures"), pictures)]
