"""Page of the curves: the sampler that is closest to the reference, at each budget."""

from pathlib import Path

from ..report.contents import number
from ..report.curves import CURVE_METRICS, Curve, Point
from ..report.figures_budgets import PANELS, budgets
from ..report.page import write_page
from ..report.plotting import Picture, styled


@styled
def write_budget_page(path: Path, sequence: str, curves: list[Curve], facts: dict[str, str]) -> list[Picture]:
    """Write the page; returns its figures."""
    pictures = list(budgets(curves))
    write_page(
        path,
        "compare.html.j2",
        sequence=sequence,
        labels=dict(PANELS),
        winners=winners(curves),
        curves=curves,
        cell=cell,
        number=number,
        floor=curves[0].floor if curves else {},
        pictures=pictures,
        facts=facts,
    )
    return pictures


def winners(curves: list[Curve]) -> list[tuple[int, dict[str, list[str]]]]:
    """List for each budget and metric the best method, and those whose 95 % interval overlaps with its own."""
    result = []
    for budget in sorted({point.budget for curve in curves for point in curve.points}):
        points = {c.method: p for c in curves for p in c.points if p.budget == budget}
        result.append((budget, {metric: _best(points, metric) for metric in CURVE_METRICS}))
    return result


def _best(points: dict[str, Point], metric: str) -> list[str]:
    sign = -1 if metric == "effective" else 1  # more of these, less of distances
    known = {m: (sign * p.mean[metric], p.margin(metric)) for m, p in points.items() if metric in p.mean}
    order = sorted(known, key=lambda m: known[m][0])
    if not order:
        return []
    value, margin = known[order[0]]
    return [m for m in order if known[m][0] - known[m][1] <= value + margin]


def cell(point: Point, metric: str) -> str:
    """Mean and half-width of the interval."""
    if metric not in point.mean:
        return "–"
    margin = f" ± {number(point.margin(metric), 2)}" if point.error[metric] else ""
    return number(point.mean[metric]) + margin
