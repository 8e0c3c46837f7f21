"""Contents of the page of a simulation, and the rows of its tables.

Shapes: T frames, S states, R rungs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from boltzray.molecules.ladder_mixing import Ladders, common_temperatures_k, ladder_time_ns, round_trips, swap_rates

from .contents import HasChain, number, percent
from .verdict import Finding


class HasEstimate(Protocol):
    """Estimate of a state's share, as far as the page needs it; `low` and `high` are its 95 % interval."""

    @property
    def label(self) -> str: ...
    @property
    def share(self) -> float: ...
    @property
    def error(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def r_hat(self) -> float: ...
    @property
    def effective_frames(self) -> float: ...
    @property
    def visits(self) -> int: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulationReport:
    """A simulation of a peptide: its states, and its ladders if it exchanged replicas.

    `occupied`: the states of every frame at the base temperature, an array (T_i, S) for each independent run, frames
    `interval_ps` apart. A finding whose `quantity` is a state's label marks that row.
    Raises: ValueError for no frames, or other states than `estimates` has.
    """

    peptide: HasChain
    headline: Finding
    estimates: Sequence[HasEstimate]
    occupied: Sequence[NDArray[Any]]
    interval_ps: float
    ladders: Ladders = ()
    findings: Sequence[Finding] = ()
    provenance: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes = [run.shape for run in self.occupied]
        if not shapes or any(len(s) != 2 or not s[0] or s[1] != len(self.estimates) for s in shapes):
            raise ValueError(f"occupied: shapes {shapes}; give (T, {len(self.estimates)}) for each run, T at least 1")


Row = dict[str, Any]


def state_rows(report: SimulationReport) -> list[Row]:
    """Rows of the table of states: key, level, and cells of value and text."""
    levels = {f.quantity: f.level for f in report.findings}
    return [
        {
            "key": e.label,
            "level": levels.get(e.label, ""),
            "cells": [
                _cell(e.share, f"{number(100 * e.share)} ± {number(100 * e.error, 2)}\u00a0%"),
                _cell(e.low, f"{number(100 * e.low)} to {number(100 * e.high)}\u00a0%"),
                _cell(e.r_hat, number(e.r_hat)),
                _cell(e.effective_frames, number(e.effective_frames)),
                _cell(e.visits, number(e.visits)),
            ],
        }
        for e in report.estimates
    ]


def rung_rows(ladders: Ladders) -> list[Row]:
    """Rows of the table of rungs: rung, temperature, swaps with the next, mean energy, round trips to it per ns."""
    temperatures, rates = common_temperatures_k(ladders), swap_rates(ladders)
    energies = np.concatenate([ladder.energy_kT for ladder in ladders]).mean(axis=0)
    trips = round_trips(ladders) / ladder_time_ns(ladders)
    none = {"value": None, "text": "–"}
    return [
        {
            "key": str(r),
            "cells": [
                _cell(temperature, f"{temperature:.1f}"),
                _cell(rates[r], percent(rates[r])) if r < len(rates) else none,
                _cell(energies[r], number(energies[r], 4)),
                _cell(trips[r - 1], number(trips[r - 1])) if r else none,
            ],
        }
        for r, temperature in enumerate(temperatures)
    ]


def summary(report: SimulationReport) -> str:
    """Describe the simulation in one line, for below the title."""
    chain = report.peptide
    runs = [len(run) * report.interval_ps / 1000 for run in report.occupied]
    each = number(min(runs)) if min(runs) == max(runs) else f"{number(min(runs))} to {number(max(runs))}"
    text = f"{chain.topology.getNumResidues()} residues, {chain.topology.getNumAtoms()} atoms · "
    if not report.ladders:
        return text + f"{len(runs)} run{'s' * (len(runs) != 1)} of {each} ns"
    rungs = common_temperatures_k(report.ladders)
    text += f"{len(report.ladders)} ladder{'s' * (len(report.ladders) != 1)} of {len(rungs)} rungs, "
    return text + f"{rungs[0]:.0f} to {rungs[-1]:.0f} K, {each} ns each"


def _cell(value: float, text: str) -> Row:
    return {"value": float(value), "text": text}
