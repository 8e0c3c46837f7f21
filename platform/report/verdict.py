"""Verdict of a report: whether an ensemble can be used."""

import math
from collections.abc import Iterator

import numpy as np

from boltzray.molecules.ensemble import Ensemble
from boltzray.samplers.importance_weights import MAX_K_HAT, MIN_TAIL_DRAWS, reliable_k_hat

from .contents import Finding, Level, Reference, Report, ancestors_needed, number, percent, quantiles
from .verdict_states import judge_reference, judge_states

MIN_EFFECTIVE, MIN_ESS = 50, 0.01
FEW_EFFECTIVE = 200  # averages are fine from fewer, histograms are not
MAX_WEIGHT_FRACTION = 0.05
MAX_FAILED_FRACTION = 0.01
# In interquartile ranges of the reference, 8 kT for two residues.
MAX_DRAW_SHIFT, MAX_WEIGHTED_SHIFT = 10.0, 0.5
MIN_CHIRALITY = 0.99
MAX_CLASHING = 0.01  # of the weight, above what the reference has


# --- the verdict --------------------------------------------------------------------------------


def verdict(report: Report) -> list[Finding]:
    """Judge every ensemble by its numbers; the worst findings first."""
    findings = [f for e in report.ensembles for f in _judge(e, report.reference)]
    findings += judge_states(report)
    if not report.ensembles:
        findings.append(Finding(level="bad", text="There is no ensemble in this report."))
    if report.reference is None:
        text = "There is no reference MD to compare with: energies and structures have not been compared with anything."
        if report.not_compared:
            text = f"The reference MD there is, {report.not_compared}, is not compared: see the note on it."
        findings.append(Finding(level="warn", text=text))
    else:
        findings += judge_reference(report.reference)
    return sorted(findings, key=lambda f: ("bad", "warn", "good").index(f.level))


def headline(report: Report, findings: list[Finding]) -> Finding:
    """Conclude from the findings in one sentence."""
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

    effective = ensemble.effective_draws
    text = f"{number(effective)} effective of {number(n)} draws ({percent(effective / n)}); "
    if not (effective >= MIN_EFFECTIVE and effective >= MIN_ESS * n):
        yield finding("bad", "ess", f"{text}at least {MIN_EFFECTIVE} and {percent(MIN_ESS)} are needed.")
    elif effective < FEW_EFFECTIVE:
        yield finding("warn", "ess", f"{text}with fewer than {FEW_EFFECTIVE}, histograms are noisy.")
    else:
        yield finding("good", "ess", f"{text}at least {MIN_EFFECTIVE} and {percent(MIN_ESS)} are needed.")

    weighted = int(np.isfinite(ensemble.log_weights).sum())
    k_hat = numbers.get("k_hat")
    if weighted < MIN_TAIL_DRAWS and "n_roots" not in numbers:  # particles of SMC have no tail; older files say ∞ here
        text = (
            f"too few draws for a diagnostic of the weights' tail (Pareto k̂): at least {MIN_TAIL_DRAWS} with a weight"
        )
        yield finding("warn", "k_hat", f"{text} are needed, here are {weighted}.")
    elif k_hat is not None:
        reliable = reliable_k_hat(n)
        if not k_hat <= MAX_K_HAT:
            text = f"above {MAX_K_HAT}: a few draws decide every average, and more would not settle it."
            yield finding("bad", "k_hat", f"Pareto k̂ is {number(k_hat)}, {text}")
        elif k_hat > reliable:
            text = f"above {number(reliable)}, the limit for {number(n)} draws: take more draws."
            yield finding("warn", "k_hat", f"Pareto k̂ is {number(k_hat)}, {text}")
        else:
            yield finding("good", "k_hat", f"Pareto k̂ is {number(k_hat)}, at most {number(reliable)} as it should be.")

    if (largest := numbers.get("max_weight_share", float(ensemble.weights.max()))) > MAX_WEIGHT_FRACTION:
        text = f"one draw holds {percent(largest)} of the weight, more than {percent(MAX_WEIGHT_FRACTION)}."
        yield finding("warn", "max_weight_share", text)

    if (ancestors := numbers.get("n_roots")) is not None:
        needed = ancestors_needed(n)
        few = not ancestors >= needed  # NaN is few, too
        text = f"{number(ancestors)} distinct ancestor{'s' * (ancestors != 1)} for {number(n)} particles; "
        text += f"at least {number(math.ceil(needed))} are needed."
        yield finding("bad" if few else "good", "n_roots", text)
    if ensemble.steps and not ensemble.steps[-1]["lam"] >= 1.0:
        reached = number(ensemble.steps[-1]["lam"])
        yield finding("bad", "lam", f"the path stopped at λ = {reached}; the target is at λ = 1.")
    failed = numbers.get("n_failed", 0) / max(numbers.get("n_evaluations", n), 1)
    if failed > MAX_FAILED_FRACTION:
        text = f"{percent(failed)} of the energy evaluations failed, more than {percent(MAX_FAILED_FRACTION)}."
        yield finding("warn", "n_failed", text)
    if (correct := ensemble.metrics.get("chirality", 1.0)) < MIN_CHIRALITY:
        text = f"{percent(correct)} of the draws have the right chirality, fewer than {percent(MIN_CHIRALITY)}."
        yield finding("warn", "chirality", text)
    floor = reference.floor if reference else {}
    for name, what in (("clashing", "overlapping atoms"), ("bad_bonds", "a bond far from its usual length")):
        usual = floor.get(name, 0.0)
        if (fraction := ensemble.metrics.get(name, 0.0)) > usual + MAX_CLASHING:
            text = f"{percent(fraction)} of the weight lies on conformations with {what}, "
            text += f"in the reference {percent(usual)}."
            yield finding("warn", name, text)

    if reference is not None:
        energies, weights = reference.finite_energies
        low, middle, high = quantiles(energies, (0.25, 0.5, 0.75), weights)
        above = float(np.median(ensemble.energy_kT) - middle)
        limit = MAX_DRAW_SHIFT * max(high - low, 1.0)
        if not above <= limit:
            text = f"the median unweighted draw lies {number(above)} kT above the reference's median energy"
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
