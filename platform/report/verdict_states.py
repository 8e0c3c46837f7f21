"""Verdict on the states of an ensemble: those that it lacks, has alone, or has another share of."""

from collections.abc import Iterator

from boltzray.molecules.reference_record import unconverged

from .contents import Finding, Level, Reference, Report, number, percent
from .states import StateRow

MAX_MISSING = 0.02  # share of a state without which an ensemble is not to be used
NAMED = 3  # states that differ


def reasons(reference: Reference) -> list[str]:
    """Reasons why a reference has not converged: its record's, or else of its frames alone."""
    return list(reference.record.reasons) if reference.record else unconverged(reference.states, None)


def judge_reference(reference: Reference) -> Iterator[Finding]:
    """Say that a reference has not converged, if so."""
    if why := reasons(reference):
        yield Finding(level="warn", text=f"The reference has not converged: {'; '.join(why)}.", quantity="reference")


def judge_states(report: Report) -> Iterator[Finding]:
    """Name each state that is missing or extra, and the states that differ most."""
    if report.reference is None:
        return
    converged = report.reference.record is not None and report.reference.record.converged
    for k, ensemble in enumerate(report.ensembles):
        for row in report.states:
            if row.differences[k] in ("missing", "extra"):
                yield Finding(
                    level=_level(row, k, converged),
                    text=f"{ensemble.name}: {_absent(row, k, len(ensemble.weights))}",
                    ensemble=ensemble.name,
                    quantity=row.reference.label,
                )
        apart = [row for row in report.states if row.differences[k] == "differs"]
        apart.sort(key=lambda row: -abs(row.reference.share - row.shares[k].share))
        if apart:
            named = "; ".join(
                f"{row.reference.label}: {plus_minus(row.reference.share, row.reference.error)} in the reference, "
                f"{plus_minus(row.shares[k].share, row.shares[k].error)} here"
                for row in apart[:NAMED]
            )
            more = f"; and {len(apart) - NAMED} more" if len(apart) > NAMED else ""
            text = f"{ensemble.name}: shares differ by over 4 standard errors: {named}{more}."
            yield Finding(level="warn", text=text, ensemble=ensemble.name, quantity="states")


def plus_minus(share: float, error: float) -> str:
    """A share and its error in per cent, for a reader."""
    return f"{number(100 * share, 2)} ± {number(100 * error, 2)}\u00a0%"


def _level(row: StateRow, k: int, converged: bool) -> Level:
    """A reference that has not converged may lack a state that is there, but has none that is not."""
    if row.differences[k] == "missing":
        return "bad" if row.reference.share >= MAX_MISSING else "warn"
    return "bad" if converged and row.shares[k].share >= MAX_MISSING else "warn"


def _absent(row: StateRow, k: int, n: int) -> str:
    found, reference = row.shares[k], row.reference
    draws = f"{number(found.draws)} of {number(n)} draws"
    if row.differences[k] == "missing":
        share = plus_minus(reference.share, reference.error)
        return f"{reference.label}: {share} in the reference, {draws} (weighted {percent(found.share)})."
    share, there = plus_minus(found.share, found.error), percent(reference.share)
    return f"{reference.label}: {share} of the weight ({draws}), {there} in the reference."
