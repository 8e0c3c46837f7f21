"""The report of a sampling run: one HTML file that says first whether the ensemble can be used."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.storage import replacing

from .conformers import conformers, viewer_code, viewer_data
from .contents import Finding, Report, number
from .figures import plot_report
from .observable_rows import csv_uri, flat_rows, in_groups, measured
from .plotting import Picture
from .states import StateRow
from .verdict import headline, verdict
from .verdict_states import plus_minus

ANSWERS = ("basins", "free energies of basins")  # of the first screen
NOTHING = 1e-9  # a fraction below it is printed as 0
# name in files: (label, kind of number, meaning)
DIAGNOSTICS: dict[str, tuple[str, str, str]] = {
    "n": ("Draws", "count", "conformations in this ensemble"),
    "ess": ("Effective sample size", "ess", "equally weighted draws that would be as good"),
    "k_hat": ("Pareto k̂", "number", "tail of the weights; the verdict has the limit for these draws"),
    "max_weight_share": ("Largest weight", "fraction", "share of the total that one draw holds"),
    "n_roots": ("Distinct ancestors", "count", "draws of the flow from which all particles descend"),
    "log_z": ("log Z", "thousandths", "free energy of the target against the flow, −ΔF in kT"),
    "log_z_error": ("log Z, standard error", "number", "near 1 or above: unknown"),
    "n_failed": ("Failed evaluations", "count", "no finite energy; they have weight zero"),
    "n_turned": ("Turned groups", "count", "copies with planar groups under other names; they have weight zero"),
    "n_evaluations": ("Energy evaluations", "count", "the cost, comparable with MD steps"),
    "n_steps": ("SMC steps", "count", "on the path from the flow to the target"),
    "seconds": ("Wall time / s", "number", "sampling alone"),
}
METRICS: dict[str, tuple[str, str, str]] = {
    "energy_w2": ("Energy W₂ / kT", "number", "mean shift of the energy distribution, large errors count more"),
    "energy_w1": ("Energy W₁ / kT", "number", "mean shift of the energy distribution"),
    "torus_w2": ("Torus W₂ / rad", "number", "distance between all φ, ψ distributions together"),
    "torus_jsd": ("Torus JSD / bit", "number", "divergence over clusters of φ, ψ, ω; 0 same, 1 disjoint"),
    "tica_w2": ("TICA W₂", "number", "distance in the two slowest coordinates"),
    "tica_jsd": ("TICA JSD / bit", "number", "divergence over clusters of slow states; 0 same, 1 disjoint"),
    "chirality": ("Correct chirality", "fraction", "share of draws with every chiral centre as in the reference"),
    "mirrored": ("Mirrored", "fraction", "mirror images, which have been mirrored back"),
    "clashing": ("Overlapping atoms", "fraction", "weight on conformations with a pair of atoms too close"),
    "bad_bonds": ("Stretched bonds", "fraction", "weight on conformations with a bond off by more than 0.03 nm"),
}


def rows(
    ensembles: list[Ensemble],
    which: str,
    known: dict[str, tuple[str, str, str]],
    findings: list[Finding],
    floor: dict[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Return a table's rows: label, meaning, and a cell (value, text, level) for each ensemble and for the floor."""
    levels = {(f.ensemble, f.quantity): f.level for f in findings}
    tables = [(e, getattr(e, which)) for e in ensembles]
    found = dict.fromkeys(key for _, table in tables for key in table)  # in order
    extra = [k for k in found if k not in known and not (k.endswith(("_low", "_high")) or k == "ess")]
    result = []
    for key in [*(k for k in known if k in found), *extra]:
        label, kind, meaning = known.get(key, (key, "number", ""))
        cells = []
        for ensemble, table in tables:
            value = table.get(key)
            text = "–" if value is None else _cell(table, key, kind, ensemble)
            level = levels.get((ensemble.name, key), "") if value is not None else ""
            cells.append({"value": value, "text": text, "level": level})
        if floor:
            text = _cell(floor, key, kind) if key in floor else "–"
            cells.append({"value": floor.get(key), "text": text, "level": ""})
        result.append({"key": key, "label": label, "meaning": meaning, "cells": cells})
    return result


def _cell(table: dict[str, float], key: str, kind: str, ensemble: Ensemble | None = None) -> str:
    scale, unit = (100.0, "\u00a0%") if kind in ("fraction", "ess") else (1.0, "")
    if kind == "fraction" and abs(table[key]) < NOTHING:
        return f"0{unit}"
    text = f"{table[key]:.3f}".replace("-", "−") if kind == "thousandths" else number(scale * table[key]) + unit
    if kind == "ess" and ensemble:
        text += f" ({number(ensemble.effective_draws)} of {number(len(ensemble.weights))})"
    if (low := table.get(f"{key}_low", math.nan)) < (high := table.get(f"{key}_high", math.nan)):
        text += f" [{number(scale * low, 2)}, {number(scale * high, 2)}]"
    return text


def write_report(path: Path, report: Report, pictures: list[Picture] | None = None) -> Path:
    """Write the page, with `pictures` if they are plotted already."""
    findings = verdict(report)
    states = conformers(report.ensembles[-1], report.peptide) if report.ensembles else []
    floor = report.reference.floor if report.reference else {}
    return write_page(
        path,
        "report.html.j2",
        report=report,
        findings=findings,
        headline=headline(report, findings),
        diagnostics=rows(report.ensembles, "diagnostics", DIAGNOSTICS, findings),
        metrics=rows(report.ensembles, "metrics", METRICS, findings, floor),
        floor=floor,
        state_rows=_state_rows(report, findings),
        number=number,
        answers=[row for row in report.observables if row.group in ANSWERS],
        csv=csv_uri(flat_rows(report.frame_sets, report.observables)),
        pictures=plot_report(report) if pictures is None else pictures,
        states=viewer_data(states, report.peptide) if states else "",
        viewer=viewer_code() if states else "",
    )


def _state_rows(report: Report, findings: list[Finding]) -> list[dict[str, Any]]:
    """Return the rows of the table of states that the reference or an ensemble visits."""
    levels = {(f.ensemble, f.quantity): f.level for f in findings}
    return [_state_row(row, report, levels) for row in report.states if row.reference.share or _visited(row)]


def _visited(row: StateRow) -> bool:
    return any(share.draws for share in row.shares)


def _state_row(row: StateRow, report: Report, levels: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    state, cells = row.reference, []
    for ensemble, found, difference in zip(report.ensembles, row.shares, row.differences, strict=True):
        level = "warn" if difference == "differs" else levels.get((ensemble.name, state.label), "")
        cells.append({"value": found.share, "text": plus_minus(found.share, found.error), "level": level})
    cells.append({"value": state.share, "text": plus_minus(state.share, state.error), "level": ""})
    mixed = not math.isnan(state.r_hat)
    r_hat, frames = (number(state.r_hat), number(round(state.effective_frames))) if mixed else ("–", "–")
    return {"key": state.label, "cells": cells, "r_hat": r_hat, "frames": frames}


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render a template of this folder, whole or not at all."""
    folder = Path(__file__).parent
    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page.filters |= {"measured": measured, "in_groups": in_groups}
    text = page.get_template(template).render(**values)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def save_figures(folder: Path, pictures: list[Picture]) -> list[Path]:
    """Write the page's figures as PNG files in `folder`; figures of an earlier page are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    paths = []
    for picture in pictures:
        paths.append(folder / f"{picture.name}.png")
        paths[-1].write_bytes(picture.png())
    return paths
