"""Files of an analysis, its table in the terminal, and what MLflow gets of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boltzray.molecules.peptide import Peptide

from ..report.figures_observables import observables
from ..report.observable_rows import FrameSet, ObservableRow, csv_uri, flat_rows, in_groups, measured
from ..report.page import save_figures, write_page
from ..report.plotting import Picture, styled
from ..runtime.config import display_path, flat
from ..runtime.progress import say
from ..runtime.tables import write_table
from ..runtime.tracking import Tracker, provenance
from .config import AnalyzeJob
from .sources import SampleFolder


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """Conformations of one peptide to analyse: `sets`, the reference last; `out`, where results go."""

    peptide: Peptide
    sets: tuple[FrameSet, ...]
    conditions: str
    out: str
    sources: str


def write_analysis(out: Path, job: AnalyzeJob, analysis: Analysis, rows: Sequence[ObservableRow]) -> Path:
    """Write observables.csv, .parquet and .html and their figures, print the table; returns the page."""
    table = flat_rows(analysis.sets, rows)
    files = [write_table(out / f"observables.{suffix}", table) for suffix in ("csv", "parquet")]
    pictures = _pictures(analysis.sets, rows)
    page = write_page(
        out / "observables.html",
        "observables.html.j2",
        sequence=analysis.peptide.sequence,
        conditions=analysis.conditions,
        sets=analysis.sets,
        rows=rows,
        pictures=pictures,
        csv=csv_uri(table),
        facts={"sources": analysis.sources, "basins": job.basins} | provenance(),
    )
    figures = save_figures(out / "observables", pictures)
    _record(out, job, [*files, page, *figures], table)
    say(f"\n{table_text(analysis.sets, rows)}\n\nobservables: {display_path(page)}")
    return page


@styled
def _pictures(sets: Sequence[FrameSet], rows: Sequence[ObservableRow]) -> list[Picture]:
    return list(observables(sets, rows))


def _record(out: Path, job: AnalyzeJob, files: Sequence[Path], table: Sequence[dict[str, Any]]) -> None:
    """Give files and numbers to the run that made the samples, or to one of its own."""
    found = Tracker.find(out) if len(job.samples) == 1 and not job.out else None
    tracker = found or Tracker.open("analyze", out, flat(job))
    metrics = {f"{row['set']} {row['group']} {row['observable']}": row["value"] for row in table}
    if found:
        _send(found, files, metrics)
    else:
        with tracker:
            _send(tracker, files, metrics)


def _send(tracker: Tracker, files: Sequence[Path], metrics: dict[str, float]) -> None:
    tracker.log({_metric_name(name): value for name, value in metrics.items()})
    for path in files:
        tracker.artifact(path, "observables")


def _metric_name(name: str) -> str:
    """A name of the letters that MLflow takes."""
    greek = {"φ": "phi", "ψ": "psi", "ω": "omega", "χ": "chi", "α": "alpha", "β": "beta", "³": "3", "²": "2"}
    plain = "".join(greek.get(letter, letter) for letter in name)
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-./ :") else " " for c in plain).strip()[:240]


def table_text(sets: Sequence[FrameSet], rows: Sequence[ObservableRow]) -> str:
    """The table for a terminal: a line for each observable, a column for each set."""
    judged = any(s.reference for s in sets)
    header = [""] + [part for s in sets for part in ([s.name, "z"] if judged and not s.reference else [s.name])]
    lines: list[list[str]] = [header]
    for group, members in in_groups(rows):
        lines.append([group])
        for row in members:
            unit = f" / {row.unit}" if row.unit else ""
            line = [f"  {row.name}{unit}"]
            for s, average, z in zip(sets, row.estimates, row.z, strict=True):
                line.append(measured(average, row.unit) + ("" if average.usable else " !"))
                if judged and not s.reference:
                    line.append("–" if z is None else f"{z:+.1f}".replace("-", "−"))
            lines.append(line)
    widths = [max(len(line[i]) for line in lines if i < len(line) > 1 or i == 0) for i in range(len(header))]
    text = ["  ".join(part.ljust(width) for part, width in zip(line, widths, strict=False)).rstrip() for line in lines]
    if any(not average.usable for row in rows for average in row.estimates):
        text.append("!: not to be used, see the column `reason` of observables.csv")
    return "\n".join(text)


def write_free_energies(
    out: Path, job: AnalyzeJob, first: SampleFolder, second: SampleFolder, rows: Sequence[dict[str, Any]]
) -> Path:
    """Write free_energy.csv and .json, and print them; returns the table."""
    table = write_table(out / "free_energy.csv", rows)
    names = [f"{display_path(f.path)} ({f.forcefield} at {f.temperature_k:g} K)" for f in (first, second)]
    say(f"\n{first.peptide.sequence}: A = {names[0]}\n{' ' * len(first.peptide.sequence)}  B = {names[1]}\n")
    for row in rows:
        reach = (row["high"] - row["low"]) / 2
        text = f"{row['method']:<26}  Δ(F/kT) = {row['difference_of_F_over_kT']:.3f} ± {reach:.3f}"
        if "difference_kJ_per_mol" in row:
            text += f"   ΔF = {row['difference_kJ_per_mol']:.3f} kJ/mol"
        say(text + ("" if row["usable"] else f"   ! {row['reason']}"))
    say(f"\nconfigurational, B − A, with half of the 95 % interval: {display_path(table)}")
    with Tracker.open("analyze", out, flat(job)) as tracker:
        tracker.log({_metric_name(row["method"]): row["difference_of_F_over_kT"] for row in rows})
        tracker.artifact(table, "free_energy")
    return table
