"""Contents of a report: ensembles, the reference beside them, and numbers written for a reader.

Shapes: T frames, N atoms. Units: nm, kT.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from boltzray.molecules.constants import PUBLISHED_K
from boltzray.molecules.convergence import StateEstimate
from boltzray.molecules.ensemble import Ensemble, Floats
from boltzray.molecules.independent_runs import halfway
from boltzray.molecules.metrics import CLUSTERS
from boltzray.molecules.observables import Tica
from boltzray.molecules.reference_record import ReferenceRecord
from boltzray.molecules.subsample import normalised_weights

from .curves import Curve
from .observable_rows import FrameSet, ObservableRow, observable_rows, report_quantities
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

    `log_weights` (None: all equal) and `run_lengths`: see `molecules.references.ReferenceTrajectory`. `states`: shares
    of all its frames. `record`: how it was made, where its file has one.

    Shape: positions_nm (T, N, 3), energy_kT and log_weights (T,).
    Raises: ValueError if the shapes differ or no energy of a frame with a weight is finite.
    """

    positions_nm: NDArray[np.float32]
    energy_kT: Floats
    source: str
    tica: Tica | None = None
    floor: dict[str, float] = field(default_factory=dict)
    log_weights: Floats | None = None
    run_lengths: tuple[int, ...] = ()
    states: list[StateEstimate] = field(default_factory=list)
    record: ReferenceRecord | None = None

    def __post_init__(self) -> None:
        n = len(self.positions_nm)
        if self.log_weights is not None and self.log_weights.shape != (n,):
            raise ValueError(f"reference: {n} frames with log-weights of shape {self.log_weights.shape}: give one each")
        if self.energy_kT.shape != (n,) or not np.isfinite(self.energy_kT[self.weights > 0]).any():
            raise ValueError(f"reference: {n} frames; give an energy for each of them, finite ones among them")

    @cached_property
    def weights(self) -> Floats:
        """Weights (T,) that sum to 1."""
        return normalised_weights(self.log_weights, len(self.positions_nm))

    @property
    def effective_frames(self) -> float:
        """Equally weighted frames that would be as good, all of them without weights."""
        return float(1.0 / np.square(self.weights).sum())

    @property
    def size(self) -> str:
        """Number of frames for a reader, and the effective one if they are weighted."""
        n = f"{len(self.positions_nm)} frames"
        return n if self.log_weights is None else f"{n}, effective {number(self.effective_frames)}"

    @property
    def halfway(self) -> int:
        """First frame of the second half: where a run begins, if there are several (see `noise_floor`)."""
        return halfway(len(self.positions_nm), self.run_lengths, CLUSTERS)

    @property
    def finite_energies(self) -> tuple[Floats, Floats | None]:
        """Energies that are finite, and the weights of their frames, None where all are equal."""
        kept = np.isfinite(self.energy_kT)
        return self.energy_kT[kept], None if self.log_weights is None else self.weights[kept]


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """Contents of the page, at `temperature_k` of the ensembles. `training`: rows with `step` and `loss`.

    `curves`: samplers at equal budgets. `not_compared`: reference MD that there is, but of other conditions.
    """

    peptide: HasChain
    ensembles: list[Ensemble]
    temperature_k: float = PUBLISHED_K
    reference: Reference | None = None
    training: list[dict[str, Any]] | None = None
    curves: list[Curve] = field(default_factory=list)
    provenance: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    not_compared: str = ""

    @cached_property
    def states(self) -> list[StateRow]:
        """States of the reference, and their shares in the ensembles; none without a reference."""
        return state_rows(self.peptide, self.ensembles, self.reference.states if self.reference else [])

    @cached_property
    def frame_sets(self) -> list[FrameSet]:
        """Ensembles and the reference, as far as they have a weight, for observables."""
        sets = [FrameSet.of(e, self.temperature_k) for e in self.ensembles]
        if r := self.reference:
            sets.append(FrameSet.of_reference(r.positions_nm, r.log_weights, r.run_lengths, self.temperature_k))
        return [sound for s in sets if len((sound := s.sound(self.peptide)).positions_nm)]

    @cached_property
    def observables(self) -> list[ObservableRow]:
        """Observables of all ensembles and of the reference."""
        return observable_rows(self.frame_sets, report_quantities(self.peptide)) if self.frame_sets else []


def quantiles(values: Floats, at: Sequence[float], weights: Floats | None = None) -> Floats:
    """Quantiles of values (n,), perhaps weighted: then the lowest values below or at which that much weight lies."""
    if weights is None:
        with np.errstate(invalid="ignore"):  # between two infinite ones: failed draws have such energies
            found = np.quantile(values, at)
        return np.where(np.isnan(found), np.quantile(values, at, method="lower"), found)
    return np.quantile(values, at, weights=weights, method="inverted_cdf")


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
