"""One table of many peptides, and the means over their lengths in the layout of the published tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..report.contents import number
from ..report.curves import margin
from ..report.page import write_page
from ..report.plotting import styled
from ..runtime.config import write_json
from ..runtime.tables import write_table
from .summary_figure import strips
from .summary_rows import COSTS, FLOOR, LABELS, OTHERS, PUBLISHED, Mean, Row, means


@styled
def write_summary(out: Path, rows: Sequence[Row], facts: dict[str, str]) -> list[Path]:
    """Write `table` and `means` as .csv and .parquet, `means.json` and `summary.html` to `out`; returns their paths."""
    found = means(rows)
    flat_rows = [_flat(row) for row in rows]
    plain = [
        {"length": m.length, "sampler": m.sampler, "peptides": m.peptides, **m.mean}
        | {f"{k}_error": v for k, v in m.error.items()}
        for m in found
    ]
    tables = [
        write_table(out / f"{name}.{suffix}", content)
        for name, content in (("table", flat_rows), ("means", plain))
        for suffix in ("csv", "parquet")
    ]
    short = {FLOOR: "halves"}
    flat = {f"{k}_{short.get(m.sampler, m.sampler).lower()}_{m.length}": v for m in found for k, v in m.mean.items()}
    write_json(out / "means.json", {"rows": plain, "flat": flat})
    page = write_page(
        out / "summary.html",
        "summary.html.j2",
        rows=sorted(rows, key=lambda r: (r.length, r.sequence)),
        means=found,
        columns=[c for c in (*PUBLISHED, *OTHERS, *COSTS) if any(c in m.mean for m in found)],
        published=PUBLISHED,
        labels=LABELS,
        cell=cell,
        mean_cell=mean_cell,
        number=number,
        floor=FLOOR,
        pictures=list(strips(rows, PUBLISHED, LABELS, FLOOR)),
        link=lambda path: path.relative_to(out) if path.is_relative_to(out) else path.as_uri(),
        facts=facts,
    )
    return [*tables, out / "means.json", page]


def _flat(row: Row) -> dict[str, Any]:
    described = {"sequence": row.sequence, "length": row.length, "sampler": row.sampler, "verdict": row.level}
    diagnostics = {k: float(v) for k, v in row.diagnostics.items() if k not in row.metrics}
    return described | {"error": row.error} | diagnostics | {k: float(v) for k, v in row.metrics.items()}


def cell(row: Row, name: str) -> str:
    """A metric with its interval."""
    if name not in row.metrics:
        return "–"
    text = number(row.metrics[name])
    if f"{name}_low" in row.metrics and row.metrics[f"{name}_low"] < row.metrics[f"{name}_high"]:
        text += f" [{number(row.metrics[f'{name}_low'], 2)}, {number(row.metrics[f'{name}_high'], 2)}]"
    return text


MIN_PEPTIDES = 5  # whose spread says how sure a mean is: of two the interval is 13 errors wide


def mean_cell(mean: Mean, name: str) -> str:
    """A mean with the half-width of its 95 % interval over peptides."""
    if name not in mean.mean:
        return "–"
    few = mean.peptides < MIN_PEPTIDES or not mean.error[name]
    return number(mean.mean[name]) + ("" if few else f" ± {number(margin(mean.error[name], mean.peptides), 2)}")
