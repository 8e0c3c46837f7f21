"""Contents of a report: ensembles, the reference beside them, and numbers written for a reader.

Shapes: T frames, N atoms. Units: nm, kT.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from boltzray.molecules.convergence import StateEstimate
from boltzray.molecules.ensemble import Ensemble, Floats
from boltzray.molecules.observables import Tica
from boltzray.molecules.reference_record import ReferenceRecord

from .curves import Curve
from .states import HasPositions, StateRow, state_rows

Level = Literal["bad", "warn", "good"]

MIN_ANCESTORS, MIN_ANCESTOR_FRACTION = 50, 0.05


class HasChain(HasPositions, Protocol):
    """Peptide, as far as a report needs it."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One judgement, with its number and threshold. `quantity` is the row of the table that it colours."""

    level: Level
    text: str
    ensemble: str = ""
    quantity: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Molecular dynamics to compare with, in order of time; `floor`: metrics of its one half against the other.

    `states`: shares of all its frames. `record`: how it was made, where its file has one.

    Shape: positions_nm (T, N, 3), energy_kT (T,).
    Raises: ValueError if the shapes differ or no energy is finite.
    """

    positions_nm: NDArray[np.float32]
    energy_kT: Floats
    source: str
    tica: Tica | None = None
    floor: dict[str, float] = field(default_factory=dict)
    states: list[StateEstimate] = field(default_factory=list)
    record: ReferenceRecord | None = None

    def __post_init__(self) -> None:
        n = len(self.positions_nm)
        if self.energy_kT.shape != (n,) or not np.isfinite(self.energy_kT).any():
            raise ValueError(f"reference: {n} frames; give an energy for each of them, finite ones among them")


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """Contents of the page. `training`: rows with `step` and `loss`. `curves`: samplers at equal budgets."""

    peptide: HasChain
    ensembles: list[Ensemble]
    reference: Reference | None = None
    training: list[dict[str, Any]] | None = None
    curves: list[Curve] = field(default_factory=list)
    provenance: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def states(self) -> list[StateRow]:
        """States of the reference, and their shares in the ensembles; none without a reference."""
        return state_rows(self.peptide, self.ensembles, self.reference.states if self.reference else [])


def number(value: float, digits: int = 3) -> str:
    """A few significant digits for a reader: 0.0123, 1 234, 2.1 × 10⁷, ∞."""
    if math.isnan(value):
        return "unknown"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e7:
        text = f"{int(value):,}"
    elif 10**digits <= abs(value) < 1e5:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{digits}g}"
    mantissa, e, exponent = text.partition("e")
    power = f" × 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}" if e else ""
    return mantissa.replace(",", "\u202f").replace("-", "−") + power


def percent(fraction: float) -> str:
    """A fraction of one for a reader."""
    return f"{number(100 * fraction)}\u00a0%"


def ancestors_needed(n: int) -> float:
    """Distinct ancestors below which n particles of SMC are copies of too few draws."""
    return max(MIN_ANCESTORS, MIN_ANCESTOR_FRACTION * n)
