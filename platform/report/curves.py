"""Samplers at equal budgets of energies: the points of the curves, and the files that hold them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from boltzray.molecules.storage import read_json

from ..runtime.config import write_json
from ..runtime.tables import write_table

CURVE_METRICS = ("effective", "energy_w2", "torus_w2", "tica_w2")


@dataclass(frozen=True, kw_only=True)
class BudgetRun:
    """One independent run of a sampler, cut off at a budget.

    `energies`: one U, or one U with its gradient, of one conformation counts 1, and so does a step of MD. `seconds` of
    one core or GPU. `metrics`: see `CURVE_METRICS`; `effective` are effective draws.
    """

    method: str
    budget: int
    repeat: int
    energies: float
    seconds: float
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Point:
    """Runs of one sampler at one budget: means, and of each metric the standard error (0 of a single run)."""

    budget: int
    runs: int
    energies: float
    seconds: float
    mean: dict[str, float]
    error: dict[str, float]

    def margin(self, metric: str) -> float:
        """Half of the 95 % interval of the mean, 0 of a single run."""
        return margin(self.error[metric], self.runs)


def margin(error: float, n: int) -> float:
    """Half of a 95 % interval, by Student's t: of two runs 12.7 standard errors, of many 1.96."""
    from scipy.stats import t  # slow to import

    return float(t.ppf(0.975, n - 1)) * error if n > 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A sampler over budgets. `floor`: the same metrics between two halves of the reference."""

    method: str
    points: list[Point]
    floor: dict[str, float]


def curves(runs: Iterable[BudgetRun], floor: dict[str, float]) -> list[Curve]:
    """Average over the repeats of each method and budget, in the order of the runs."""
    groups: dict[str, dict[int, list[BudgetRun]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        groups[run.method][run.budget].append(run)
    return [
        Curve(method=method, points=[_point(budget, budgets[budget]) for budget in sorted(budgets)], floor=floor)
        for method, budgets in groups.items()
    ]


def means_and_errors(
    rows: Sequence[Mapping[str, float]], names: Iterable[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean, and its standard error (0 of a single value), of each of `names` over the rows that have it."""
    columns = {name: np.array([row[name] for row in rows if name in row]) for name in names}
    columns = {name: values for name, values in columns.items() if len(values)}
    mean = {name: float(v.mean()) for name, v in columns.items()}
    with np.errstate(invalid="ignore"):  # an infinite k̂ leaves a mean without an error
        error = {name: float(v.std(ddof=1) / np.sqrt(len(v))) if len(v) > 1 else 0.0 for name, v in columns.items()}
    return mean, error


def _point(budget: int, runs: list[BudgetRun]) -> Point:
    mean, error = means_and_errors([run.metrics for run in runs], CURVE_METRICS)
    return Point(
        budget=budget,
        runs=len(runs),
        energies=float(np.mean([r.energies for r in runs])),
        seconds=float(np.mean([r.seconds for r in runs])),
        mean=mean,
        error=error,
    )


def save_curves(folder: Path, runs: list[BudgetRun], floor: dict[str, float]) -> None:
    """Write `curves.json` for the report, and every run as a row of `runs.csv` and `runs.parquet`."""
    rows = [{k: v for k, v in asdict(r).items() if k != "metrics"} | r.metrics for r in runs]
    for name in ("runs.csv", "runs.parquet"):
        write_table(folder / name, rows)
    write_json(folder / "curves.json", [asdict(curve) for curve in curves(runs, floor)])


def load_curves(folder: Path) -> list[Curve]:
    """Read the curves that `save_curves` left in `folder`; none where there are none."""
    path = folder / "curves.json"
    if not path.exists():
        return []
    read = read_json(path)
    return [Curve(**curve | {"points": [Point(**point) for point in curve["points"]]}) for curve in read]
