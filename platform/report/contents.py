"""What a report is about: weighted ensembles, the reference beside them, and numbers written for a reader.

Shapes: n draws, N atoms. Units: nm, kT.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from boltzray.molecules.observables import Tica

from .curves import Curve

Floats = NDArray[np.float64]

MIN_ROOTS, MIN_ROOT_SHARE = 50, 0.05


class HasChain(Protocol):
    """What the report needs of a peptide."""

    @property
    def sequence(self) -> str: ...
    @property
    def topology(self) -> Any: ...
    @property
    def positions(self) -> NDArray[Any]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Ensemble:
    """One weighted set of conformations. `diagnostics` and `metrics`: any of the keys above; `ess` a share of n.

    Shape: positions_nm (n, N, 3); log_weights, energy_kT (n,), −inf and +inf for what failed. `steps`: SMC's.
    Raises: ValueError for shapes that differ, or a weight of NaN or +inf.
    """

    name: str
    positions_nm: NDArray[np.float32]
    log_weights: Floats
    energy_kT: Floats
    diagnostics: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    steps: list[dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        n = len(self.positions_nm)
        if n == 0 or not self.log_weights.shape == self.energy_kT.shape == (n,):
            shapes = f"{self.log_weights.shape} log-weights and {self.energy_kT.shape} energies"
            raise ValueError(f"{self.name}: {n} conformations with {shapes}; give one of each, at least one")
        if not (self.log_weights < np.inf).all():
            raise ValueError(f"{self.name}: log-weights hold NaN or +inf; give failed conformations -inf")

    @cached_property
    def weights(self) -> Floats:
        """They sum to 1, or are all zero. Shape: (n,)."""
        log_w = self.log_weights.astype(np.float64)
        weights = np.exp(log_w - max(log_w.max(), np.finfo(np.float64).min))
        return weights / max(weights.sum(), 1.0)

    @property
    def effective(self) -> float:
        """Effective draws, of the sampler's raw weights if it reported them (smoothing hides a collapse)."""
        squares = float(np.square(self.weights).sum())
        share = self.diagnostics.get("ess", 1.0 / squares / len(self.weights) if squares else 0.0)
        return share * len(self.weights)

    @property
    def roots_needed(self) -> float:
        """Distinct ancestors below which particles are copies of too few draws."""
        return max(MIN_ROOTS, MIN_ROOT_SHARE * len(self.weights))


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Molecular dynamics to compare with, in order of time; `floor`: metrics of its one half against the other.

    Shape: (T, N, 3), (T,).
    Raises: ValueError if the shapes differ or no energy is finite.
    """

    positions_nm: NDArray[np.float32]
    energy_kT: Floats
    source: str
    tica: Tica | None = None
    floor: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.positions_nm)
        if self.energy_kT.shape != (n,) or not np.isfinite(self.energy_kT).any():
            raise ValueError(f"reference: {n} frames; give an energy for each of them, finite ones among them")


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """All that the page shows. `training`: rows with `step` and `loss`. `curves`: samplers at equal budgets."""

    peptide: HasChain
    ensembles: list[Ensemble]
    reference: Reference | None = None
    training: list[dict[str, Any]] | None = None
    curves: list[Curve] = field(default_factory=list)
    provenance: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


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


def percent(share: float) -> str:
    """A share of one for a reader."""
    return f"{number(100 * share)}\u00a0%"
