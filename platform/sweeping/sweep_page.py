"""Page of a sweep: the best trial first, with the command that makes it again."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..finetuning.round_record import RoundRecord
from ..report.contents import number, percent
from ..report.page import write_page
from ..report.verdict import MAX_K_HAT
from ..runtime.config import display_path
from ..runtime.tracking import provenance
from .config import MODES, Metric, SweepJob
from .figures import plot_sweep
from .outcomes import Outcome, Status, best, best_of_each, score

LEFT: tuple[Status, ...] = ("begun", "waiting")
LEVELS: dict[Status, str] = {
    "done": "good",
    "stopped": "",
    "diverged": "bad",
    "failed": "bad",
    "begun": "warn",
    "waiting": "",
}
NAMES: dict[Metric, str] = {"ess": "ESS", "energy_w2": "energy W₂"}


def write_sweep_report(out: Path, job: SweepJob, found: Sequence[Outcome], command: str) -> Path:
    """Write `sweep.html`, self-contained."""
    top = best(found, job.metric)
    keys = list(dict.fromkeys(key for o in found for key in o.trial.settings))
    return write_page(
        out / "sweep.html",
        "sweep.html.j2",
        peptide=f"{len(job.sequences)} peptides" if job.sequences else job.name,
        job=job,
        headline=_headline(job, found, top),
        level="good" if top and _surely_better(found, top, job.metric) else "warn",
        findings=list(_findings(job, found, top)),
        command=command,
        weights=display_path(top.trial.folder / "checkpoint") if top else "",
        counts=dict(Counter(o.status for o in found)),
        objectives=[_objective_row(name, o, found, job) for name, o in best_of_each(found, job.metric).items()],
        keys=keys,
        rows=[_row(o, keys, o is top) for o in found],
        pictures=plot_sweep(job, found),
        provenance={"sweep": display_path(out), **provenance()},
        names=NAMES,
    )


def _metric(job: SweepJob) -> str:
    """The name of the metric that decides."""
    return f"{'validation ' if job.validation else ''}{NAMES[job.metric]}"


def _headline(job: SweepJob, found: Sequence[Outcome], top: Outcome | None) -> str:
    if top:
        value = _formatted(job.metric, top.score(job.metric), top.rounds[-1])
        reached = f"{_metric(job)} {value} after {number(top.energies)} energies"
        return f"Best: {top.trial.objective} (trial {top.trial.number}), {reached}."
    return "No trial has finished yet." if any(o.status in LEFT for o in found) else "No trial finished."


def _findings(job: SweepJob, found: Sequence[Outcome], top: Outcome | None) -> Iterator[tuple[str, str]]:
    """Yield (level, sentence) for each thing that a reader must know of the result."""
    if top:
        first = _first(found, job.metric)
        before = _formatted(job.metric, _start(found, job.metric), first)
        text = f"{_metric(job)} of the flow as it was given, on its first draws: {before}."
        if _within_error(top, first, job.metric):
            yield "warn", f"{text} The difference is within twice its error: compare with more draws (jobs/sample.py)."
        elif _better(found, top, job.metric):
            yield "good", text
        else:
            yield "warn", f"No better than without finetuning. {text}"
        if (k_hat := top.rounds[-1].k_hat or 0.0) > MAX_K_HAT:
            text = f"Pareto k̂ of its last draw is {number(k_hat)}, above {MAX_K_HAT}: its ESS rests on a few draws"
            yield "warn", f"{text}, and another seed may give another order."
        yield from _rivals(found, top, job.metric)
        others = [o for o in best_of_each(found, job.metric).values() if o.trial.objective != top.trial.objective]
        for second in [o for o in others if math.isfinite(o.score(job.metric))][:1]:
            text = f"The best other objective is {second.trial.objective} (trial {second.trial.number})"
            yield "good", f"{text} with {_formatted(job.metric, second.score(job.metric))}."
    bad: tuple[Status, ...] = ("diverged", "failed")
    for status in bad:
        if those := [str(o.trial.number) for o in found if o.status == status]:
            yield "warn", f"{len(those)} of {len(found)} trials {status}: {', '.join(those)}."
    if unfinished := sum(o.status in LEFT for o in found):
        yield "warn", f"{unfinished} of {len(found)} trials have not ended: the same command goes on with them."


def _rivals(found: Sequence[Outcome], top: Outcome, metric: Metric) -> Iterator[tuple[str, str]]:
    """Say which trials may be as good as the best: finished ones within its error, and stopped ones ahead of it."""
    close = [
        str(o.trial.number)
        for o in found
        if o is not top and math.isfinite(o.score(metric)) and _within_error(top, o.rounds[-1], metric)
    ]
    if close:
        named = f"trial{'s' * (len(close) > 1)} {', '.join(close)}"
        yield "warn", f"Within twice the error of the best: {named}. Which is best, more draws would tell."
    sign = 1 if MODES[metric] == "max" else -1
    ahead = [
        str(o.trial.number)
        for o in found
        if o.status == "stopped" and any(sign * value > sign * top.score(metric) for _, value in o.curve(metric)[-1:])
    ]
    if ahead:
        named = f"trial{'s' * (len(ahead) > 1)} {', '.join(ahead)}"
        yield "warn", f"Ahead of the best when stopped early: {named}. Only finished trials are called best."


def _better(found: Sequence[Outcome], top: Outcome, metric: Metric) -> bool:
    """Return True if the best trial is better than the flow that all began with, or if that is not known."""
    before, after = _start(found, metric), top.score(metric)
    return not (after <= before if MODES[metric] == "max" else after >= before)


def _surely_better(found: Sequence[Outcome], top: Outcome, metric: Metric) -> bool:
    """Return True if it is better by more than twice the error."""
    return _better(found, top, metric) and not _within_error(top, _first(found, metric), metric)


def _first(found: Sequence[Outcome], metric: Metric) -> RoundRecord | None:
    """Return the first round of a trial that drew at this temperature then, before any learning."""
    firsts = (o for o in found if o.rounds and math.isfinite(score(o.rounds[0], o.trial.job, metric)))
    return next((o.rounds[0] for o in firsts), None)


def _start(found: Sequence[Outcome], metric: Metric) -> float:
    """Metric of the flow that was given, NaN if it is not known."""
    first = _first(found, metric)
    return score(first, found[0].trial.job, metric) if first else math.nan


def _within_error(top: Outcome, first: RoundRecord | None, metric: Metric) -> bool:
    """Return True if the best trial and the flow that was given lie within twice their error of each other."""
    if metric != "ess" or first is None:
        return False
    (before, error), error_after = first.judged, top.rounds[-1].judged[1]
    return abs(top.score(metric) - before) < 2 * math.hypot(error, error_after)


def _objective_row(name: str, o: Outcome, found: Sequence[Outcome], job: SweepJob) -> dict[str, Any]:
    counts = Counter(other.status for other in found if other.trial.objective == name)
    last = o.rounds[-1]
    return {
        "name": name,
        "trial": o.trial.number,
        "settings": ", ".join(f"{k} {_setting(v)}" for k, v in o.trial.settings.items()),
        "trials": ", ".join(f"{n} {status}" for status, n in counts.items()),
        "energies": number(o.energies),
        **{metric: _formatted(metric, score(last, o.trial.job, metric), last) for metric in NAMES},
        "k_hat": _number(last.k_hat),
        "unsure": (last.k_hat or 0.0) > MAX_K_HAT,
    }


def _row(o: Outcome, keys: Sequence[str], top: bool) -> dict[str, Any]:
    """Row of the table of trials; each cell is (sortable value, text)."""
    last = o.rounds[-1] if o.rounds else None
    k_hat, seconds = (last.k_hat, last.seconds) if last else (None, None)
    numbers = {metric: score(last, o.trial.job, metric) if last else math.nan for metric in NAMES}
    return {
        "number": o.trial.number,
        "objective": o.trial.objective,
        "settings": [(o.trial.settings.get(k, ""), _setting(o.trial.settings.get(k, "–"))) for k in keys],
        "status": o.status,
        "level": LEVELS[o.status],
        "message": o.message,
        "energies": (o.energies, number(o.energies)),
        "metrics": {m: (v if math.isfinite(v) else "", _formatted(m, v, last)) for m, v in numbers.items()},
        "k_hat": ("" if k_hat is None else k_hat, _number(k_hat)),
        "seconds": (seconds or "", _number(seconds)),
        "top": top,
    }


def _setting(value: Any) -> str:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _number(value: float | None) -> str:
    return "–" if value is None else number(value)


def _formatted(metric: Metric, value: float, record: RoundRecord | None = None) -> str:
    """Format a metric, with the standard error that its record has."""
    if not math.isfinite(value):
        return "–"
    if metric == "energy_w2":
        return f"{number(value)}\u00a0kT"
    error = record.judged[1] if record else math.nan
    return f"{number(100 * value)} ± {100 * error:.1f}\u00a0%" if math.isfinite(error) else percent(value)
