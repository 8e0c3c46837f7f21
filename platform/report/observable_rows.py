"""Observables of several sets of conformations side by side: averages, shares and free energies, with intervals.

Shapes: T frames, N atoms. Units: nm, kJ/mol.
"""

import base64
import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boltzray.molecules.basins import OTHER, ramachandran_basins
from boltzray.molecules.constants import KB, PUBLISHED_K
from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.independent_runs import run_lengths_at
from boltzray.molecules.observables import chirality_signs, unmirror
from boltzray.molecules.quantities import Quantity, basin_quantities, standard_quantities
from boltzray.samplers.weighted_average import QUANTILE_95, Average, weighted_average, weighted_log_ratio

from .plotting import Floats
from .states import HasPositions

REFERENCE = "reference MD"
MIN_SHARE = 0.005  # of a hydrogen bond, in one of the sets, to be named


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameSet:
    """Conformations of one peptide with their weights, None where all are equal.

    `run_lengths`: of correlated frames, those of independent runs; none for independent draws. `effective`: draws that
    they are worth at most, such as SMC's distinct ancestors. `reference`: what the others are compared with.
    """

    name: str
    positions_nm: NDArray[np.float32]
    log_weights: Floats | None = None
    temperature_k: float = PUBLISHED_K
    run_lengths: tuple[int, ...] = ()
    effective: float = math.inf
    reference: bool = False

    @classmethod
    def of(cls, ensemble: Ensemble, temperature_k: float) -> "FrameSet":
        """Draws of an ensemble; particles of SMC are worth their distinct ancestors at most."""
        return cls(
            name=ensemble.name,
            positions_nm=ensemble.positions_nm,
            log_weights=ensemble.log_weights.astype(np.float64),
            temperature_k=temperature_k,
            effective=ensemble.independent_draws,
        )

    @classmethod
    def of_reference(
        cls,
        positions_nm: NDArray[np.float32],
        log_weights: Floats | None,
        run_lengths: tuple[int, ...],
        temperature_k: float,
    ) -> "FrameSet":
        """Frames of reference MD; without `run_lengths` they are one run."""
        return cls(
            name=REFERENCE,
            positions_nm=positions_nm,
            log_weights=log_weights,
            temperature_k=temperature_k,
            run_lengths=run_lengths or (len(positions_nm),),
            reference=True,
        )

    def sound(self, peptide: HasPositions) -> "FrameSet":
        """Only what is finite and has a weight; mirror images are mirrored back, as the energy does not see them."""
        kept = np.isfinite(self.positions_nm).all(axis=(1, 2))
        if self.log_weights is not None:
            kept &= np.isfinite(self.log_weights)
        rows = np.flatnonzero(kept)
        signs = chirality_signs(peptide.positions[None], peptide.topology)[0]
        positions = self.positions_nm[rows]
        return replace(
            self,
            positions_nm=unmirror(positions, peptide.topology, signs)[0] if len(rows) else positions,
            log_weights=None if self.log_weights is None else self.log_weights[rows],
            run_lengths=run_lengths_at(rows, self.run_lengths) if self.run_lengths else (),
        )

    def estimate(self, function: Callable[..., Average], *values: NDArray[Any]) -> Average:
        """`weighted_average` or `weighted_log_ratio` of values (T,) of these frames."""
        return function(*values, self.log_weights, runs=self.run_lengths, effective=self.effective)


@dataclass(frozen=True, kw_only=True)
class ObservableRow:
    """One observable in each set; `z`: difference from the reference in standard errors of both, None without.

    `unit`: empty for a share.
    """

    name: str
    group: str
    unit: str
    estimates: tuple[Average, ...]
    z: tuple[float | None, ...]


def observable_rows(
    sets: Sequence[FrameSet], quantities: Sequence[Quantity], done: Callable[[int, str], None] = lambda *_: None
) -> list[ObservableRow]:
    """Average all quantities over all sets, which are `sound`; free energies come after the basins.

    Left out are hydrogen bonds that are rare in all sets, and the rest of a partition where there is none.
    """
    values: list[list[NDArray[Any]]] = []
    averages: list[tuple[Average, ...]] = []
    rows = []
    for count, quantity in enumerate(quantities, start=1):
        of_sets = [quantity.of(frames.positions_nm) for frames in sets]
        values.append(of_sets)
        found = tuple(s.estimate(weighted_average, v) for s, v in zip(sets, of_sets, strict=True))
        averages.append(found)
        largest = max(average.value for average in found)
        rare = quantity.group == "hydrogen bonds" and largest < MIN_SHARE
        if not rare and not (quantity.name.split(" ")[-1] == OTHER and largest == 0):
            rows.append(_row(sets, quantity.name, quantity.group, quantity.unit, found))
        done(count, quantity.name)
    last = max((i for i, row in enumerate(rows) if row.group == "basins"), default=-1)
    rows[last + 1 : last + 1] = _free_energies(sets, quantities, values, averages)
    return rows


def _free_energies(
    sets: Sequence[FrameSet],
    quantities: Sequence[Quantity],
    values: Sequence[Sequence[Any]],
    averages: Sequence[Sequence[Average]],
) -> list[ObservableRow]:
    """Free energies of the basins of each partition, against the one that the reference or the last set prefers."""
    rows = []
    judge = next((i for i, s in enumerate(sets) if s.reference), len(sets) - 1)
    for partition in dict.fromkeys(q.partition for q in quantities if q.group == "basins"):
        members = [i for i, q in enumerate(quantities) if q.group == "basins" and q.partition == partition]
        members = [i for i in members if quantities[i].name.split(" ")[-1] != OTHER]
        shares = [averages[i][judge].value for i in members]
        top = members[int(np.argmax(shares))]
        for i in members:
            if i == top or not any(v.any() for v in values[i]):
                continue
            found = tuple(
                _scaled(s.estimate(weighted_log_ratio, values[i][k], values[top][k]), -KB * s.temperature_k)
                for k, s in enumerate(sets)
            )
            name = f"F({quantities[i].name}) − F({quantities[top].name.removeprefix(f'{partition} ')})"
            rows.append(_row(sets, name, "free energies of basins", "kJ/mol", found))
    return rows


def _scaled(found: Average, factor: float) -> Average:
    low, high = sorted((factor * found.low, factor * found.high))
    return found._replace(value=factor * found.value, error=abs(factor) * found.error, low=low, high=high)


def _row(sets: Sequence[FrameSet], name: str, group: str, unit: str, found: tuple[Average, ...]) -> ObservableRow:
    reference = next((average for s, average in zip(sets, found, strict=True) if s.reference), None)
    z = tuple(
        None if s.reference or reference is None else z_score(average, reference)
        for s, average in zip(sets, found, strict=True)
    )
    return ObservableRow(name=name, group=group, unit=unit, estimates=found, z=z)


def z_score(average: Average, reference: Average) -> float | None:
    """Difference in standard errors; of a share that is never seen half the interval stands for one."""
    errors = [a.error if a.error > 0 else (a.high - a.low) / (2 * QUANTILE_95) for a in (average, reference)]
    error = math.hypot(*errors)
    difference = average.value - reference.value
    return difference / error if math.isfinite(difference) and 0 < error < math.inf else None


def report_quantities(peptide: HasPositions) -> list[Quantity]:
    """Quantities of a report: all but areas, which take a second a thousand frames."""
    return basin_quantities(ramachandran_basins(peptide)) + standard_quantities(peptide, area=False)


def csv_uri(table: Sequence[dict[str, Any]]) -> str:
    """The table of `flat_rows` as CSV, in a link that a page can hold."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]) if table else [])
    writer.writeheader()
    writer.writerows(table)
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.getvalue().encode()).decode()}"


def flat_rows(sets: Sequence[FrameSet], rows: Sequence[ObservableRow]) -> list[dict[str, Any]]:
    """Rows of a table: one for each observable and set."""
    return [
        {
            "group": row.group,
            "observable": row.name,
            "unit": row.unit or "share",
            "set": s.name,
            "value": average.value,
            "error": average.error,
            "low": average.low,
            "high": average.high,
            "z": z,
            "k_hat": average.k_hat,
            "n_effective": average.n_effective,
            "usable": average.usable,
            "reason": average.reason,
        }
        for row in rows
        for s, average, z in zip(sets, row.estimates, row.z, strict=True)
    ]


def in_groups(rows: Sequence[ObservableRow]) -> list[tuple[str, list[ObservableRow]]]:
    """Rows of each group, in the order in which they come."""
    return [(group, [row for row in rows if row.group == group]) for group in dict.fromkeys(r.group for r in rows)]


def measured(average: Average, unit: str) -> str:
    """A value with its interval for a reader, both to the digits that the interval leaves: 13.2 % [11.0, 15.8]."""
    if not math.isfinite(average.value):
        return "not seen"
    scale, suffix = (100.0, "\u00a0%") if not unit else (1.0, "")
    value, low, high = (scale * x for x in (average.value, average.low, average.high))
    width = (high - low) / 2
    if not 0 < width < math.inf:
        return f"{value:.3g}{suffix}".replace("-", "−")
    decimals = min(max(0, 1 - math.floor(math.log10(width))), 6)  # weights may be as small as numbers can be
    text = f"{value:.{decimals}f}{suffix} [{low:.{decimals}f}, {high:.{decimals}f}]"
    return text.replace("-", "−")
