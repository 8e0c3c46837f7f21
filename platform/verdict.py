"""What a report is about, and what it concludes: whether an ensemble can be used.

Shapes: n draws, N atoms. Units: nm, kT.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Level = Literal["bad", "warn", "good"]

MIN_EFFECTIVE, MIN_ESS = 50, 0.01
FEW_EFFECTIVE = 200  # averages are fine from fewer, histograms are not
MAX_K_HAT = 0.7  # Vehtari et al. 2024; below it, n draws settle a k̂ of up to 1 − 1/log₁₀ n
MIN_ROOTS, MIN_ROOT_SHARE = 50, 0.05
MAX_WEIGHT_SHARE = 0.05
MAX_FAILED_SHARE = 0.01
# In interquartile ranges of the reference, 8 kT for two residues.
MAX_DRAW_SHIFT, MAX_WEIGHTED_SHIFT = 10.0, 0.5
MIN_CHIRALITY = 0.99


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
    """Molecular dynamics to compare with.

    Shape: (T, N, 3), (T,).
    Raises: ValueError if the shapes differ or no energy is finite.
    """

    positions_nm: NDArray[np.float32]
    energy_kT: Floats
    source: str

    def __post_init__(self) -> None:
        n = len(self.positions_nm)
        if self.energy_kT.shape != (n,) or not np.isfinite(self.energy_kT).any():
            raise ValueError(f"reference: {n} frames; give an energy for each of them, finite ones among them")


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """All that the page shows. `training`: rows with `step` and `loss`."""

    peptide: HasChain
    ensembles: list[Ensemble]
    reference: Reference | None = None
    training: list[dict[str, Any]] | None = None
    provenance: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One judgement, with its number and threshold. `quantity` is the row of the table that it colours."""

    level: Level
    text: str
    ensemble: str = ""
    quantity: str = ""


# --- the verdict --------------------------------------------------------------------------------


def verdict(report: Report) -> list[Finding]:
    """What the numbers say, the worst first."""
    findings = [f for e in report.ensembles for f in _judge(e, report.reference)]
    if not report.ensembles:
        findings.append(Finding(level="bad", text="There is no ensemble in this report."))
    if report.reference is None:
        text = "There is no reference MD: energies and structures have not been compared with anything."
        findings.append(Finding(level="warn", text=text))
    return sorted(findings, key=lambda f: ("bad", "warn", "good").index(f.level))


def headline(report: Report, findings: list[Finding]) -> Finding:
    """The findings in one sentence."""
    bad = {f.ensemble for f in findings if f.level == "bad"}
    usable = [e.name for e in report.ensembles if e.name not in bad]
    if not usable:
        return Finding(level="bad", text="Not an ensemble to use: this run only shows that the pipeline works.")
    if bad:
        useless = " and ".join(e.name for e in report.ensembles if e.name in bad)
        return Finding(level="warn", text=f"Use {' or '.join(usable)}. Do not use {useless}.")
    if any(f.level == "warn" for f in findings):
        return Finding(level="warn", text="An ensemble to use, with the reservations below.")
    return Finding(level="good", text="An ensemble to use.")


def _judge(ensemble: Ensemble, reference: Reference | None) -> Iterator[Finding]:
    n, numbers = len(ensemble.weights), ensemble.diagnostics

    def finding(level: Level, quantity: str, text: str) -> Finding:
        return Finding(level=level, text=f"{ensemble.name}: {text}", ensemble=ensemble.name, quantity=quantity)

    effective = ensemble.effective
    text = f"{number(effective)} effective of {number(n)} draws ({percent(effective / n)}); "
    if not (effective >= MIN_EFFECTIVE and effective >= MIN_ESS * n):
        yield finding("bad", "ess", f"{text}at least {MIN_EFFECTIVE} and {percent(MIN_ESS)} are needed.")
    elif effective < FEW_EFFECTIVE:
        yield finding("warn", "ess", f"{text}with fewer than {FEW_EFFECTIVE}, histograms are noisy.")
    else:
        yield finding("good", "ess", f"{text}at least {MIN_EFFECTIVE} and {percent(MIN_ESS)} are needed.")

    if (k_hat := numbers.get("k_hat")) is not None:
        reliable = min(1 - 1 / math.log10(max(n, 11)), MAX_K_HAT)
        if not k_hat <= MAX_K_HAT:
            text = f"above {MAX_K_HAT}: a few draws decide every average, and more draws would not settle it."
            yield finding("bad", "k_hat", f"Pareto k̂ is {number(k_hat)}, {text}")
        elif k_hat > reliable:
            text = f"above {number(reliable)}, the limit for {number(n)} draws: take more draws."
            yield finding("warn", "k_hat", f"Pareto k̂ is {number(k_hat)}, {text}")
        else:
            yield finding("good", "k_hat", f"Pareto k̂ is {number(k_hat)}, at most {number(reliable)} as it should be.")

    if (largest := numbers.get("max_weight_share", float(ensemble.weights.max()))) > MAX_WEIGHT_SHARE:
        text = f"one draw holds {percent(largest)} of the weight, more than {percent(MAX_WEIGHT_SHARE)}."
        yield finding("warn", "max_weight_share", text)

    if (roots := numbers.get("n_roots")) is not None:
        few = not roots >= ensemble.roots_needed
        text = f"{number(roots)} distinct ancestor{'s' * (roots != 1)} for {number(n)} particles; "
        text += f"at least {number(math.ceil(ensemble.roots_needed))} are needed."
        yield finding("bad" if few else "good", "n_roots", text)
    if ensemble.steps and not ensemble.steps[-1]["lam"] >= 1.0:
        reached = number(ensemble.steps[-1]["lam"])
        yield finding("bad", "lam", f"the path stopped at λ = {reached}; the target is at λ = 1.")
    failed = numbers.get("n_failed", 0) / max(numbers.get("n_evaluations", n), 1)
    if failed > MAX_FAILED_SHARE:
        text = f"{percent(failed)} of the energy evaluations failed, more than {percent(MAX_FAILED_SHARE)}."
        yield finding("warn", "n_failed", text)
    if (correct := ensemble.metrics.get("chirality", 1.0)) < MIN_CHIRALITY:
        text = f"{percent(correct)} of the draws have the right chirality, fewer than {percent(MIN_CHIRALITY)}."
        yield finding("warn", "chirality", text)

    if reference is not None:
        low, middle, high = np.quantile(reference.energy_kT[np.isfinite(reference.energy_kT)], (0.25, 0.5, 0.75))
        drawn = float(np.median(ensemble.energy_kT) - middle)
        limit = MAX_DRAW_SHIFT * max(high - low, 1.0)
        if not drawn <= limit:
            text = f"the median unweighted draw lies {number(drawn)} kT above the reference's median energy"
            yield finding("bad", "energy", f"{text}, over the limit of {number(limit)} kT.")
        shift, limit = _median(ensemble) - float(middle), MAX_WEIGHTED_SHIFT * max(high - low, 1.0)
        text = f"the weighted median energy differs by {number(shift)} kT from the reference's; "
        level: Level = "good" if abs(shift) <= limit else "warn"
        yield finding(level, "energy", f"{text}up to {number(limit)} kT is accepted.")


def _median(ensemble: Ensemble) -> float:
    """Weighted median energy, +inf without any weight."""
    order = np.argsort(ensemble.energy_kT)
    below = np.cumsum(ensemble.weights[order])
    return float(ensemble.energy_kT[order][np.searchsorted(below, below[-1] / 2)]) if below[-1] else math.inf


def number(value: float) -> str:
    """Three significant digits for a reader: 0.0123, 1 234, 2.1 × 10⁷, ∞."""
    if math.isnan(value):
        return "unknown"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e7:
        text = f"{int(value):,}"
    elif 1e3 <= abs(value) < 1e5:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.3g}"
    mantissa, e, exponent = text.partition("e")
    power = f" × 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}" if e else ""
    return mantissa.replace(",", "\u202f").replace("-", "−") + power


def percent(share: float) -> str:
    """A share of one for a reader."""
    return f"{number(100 * share)}\u00a0%"
