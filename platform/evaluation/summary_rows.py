"""Rows of the table of many peptides, and their means over the peptides of each length."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boltzray.molecules.sequences import n_residues, parse_sequence

from ..report.curves import means_and_errors
from .result import EvaluationResult, SamplerNumbers

FLOOR = "MD, its two halves"
PUBLISHED = ("ess", "energy_w2", "torus_w2", "tica_w2")  # columns of the papers' tables; the others follow
OTHERS = ("energy_w1", "torus_jsd", "tica_jsd", "chirality", "clashing", "bad_bonds")
COSTS = ("ess_without_com", "k_hat", "n_evaluations", "seconds")  # of the draws, from their diagnostics
LABELS = {
    "ess": "ESS ↑",
    "energy_w2": "E-W₂ ↓",
    "torus_w2": "T-W₂ ↓",
    "tica_w2": "TICA-W₂ ↓",
    "energy_w1": "E-W₁ ↓",
    "torus_jsd": "T-JSD ↓",
    "tica_jsd": "TICA-JSD ↓",
    "chirality": "chirality ↑",
    "clashing": "overlaps ↓",
    "bad_bonds": "stretched ↓",
    "ess_without_com": "ESS, no centre term",
    "k_hat": "k̂ ↓",
    "n_evaluations": "energies",
    "seconds": "seconds",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sampler on one peptide; `error`: why there are no metrics. `report`: its page, where there is one."""

    sequence: str
    sampler: str
    level: str = ""
    headline: str = ""
    error: str = ""
    report: Path | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Residues, as far as the name tells."""
        try:
            return n_residues(parse_sequence(self.sequence))
        except ValueError:  # the name of a folder
            return 0


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Of one sampler over the peptides of one length: means and their standard errors (0 of a single peptide)."""

    length: int
    sampler: str
    peptides: int
    mean: dict[str, float]
    error: dict[str, float]


def rows_of(name: str, folder: Path, result: EvaluationResult | None, error: str, model: str = "") -> list[Row]:
    """Rows of one peptide: one for each sampler (of `model`, if named), and one for the two halves of the reference."""
    if result is None:
        return [Row(sequence=name, sampler=model, error=error or "not evaluated")]
    shared: dict[str, Any] = {"sequence": result.sequence, "report": folder / "report.html"}
    shared |= {"level": result.level, "headline": result.headline}
    rows = [
        Row(**shared, sampler=f"{model} {sampler}".strip(), diagnostics=found.diagnostics, metrics=_with_ess(found))
        for sampler, found in result.samplers.items()
    ]
    if result.noise_floor:
        rows.append(Row(**shared, sampler=FLOOR, metrics=result.noise_floor))
    return rows


def _with_ess(found: SamplerNumbers) -> dict[str, float]:
    """Metrics with the ESS of the raw weights, if the sampler reported it, instead of that of the treated ones.

    Its interval is kept where the weights were not treated.
    """
    if found.diagnostics.get("ess") == found.metrics.get("ess"):
        return found.metrics
    kept = {name: value for name, value in found.metrics.items() if not name.startswith("ess")}
    ess = found.diagnostics.get("ess", found.metrics.get("ess"))
    return kept | ({} if ess is None else {"ess": ess})


def means(rows: Sequence[Row]) -> list[Mean]:
    """Average over the peptides of each length, in the order of lengths, then of samplers."""
    halves = {row.sequence: row for row in rows if row.sampler == FLOOR}  # the same, whatever flow is compared with it
    usable = [row for row in rows if row.metrics and (row.sampler != FLOOR or halves[row.sequence] is row)]
    keys = dict.fromkeys(
        (row.length, row.sampler) for row in sorted(usable, key=lambda r: (r.length, r.sampler == FLOOR))
    )
    result = []
    for length, sampler in keys:
        same = [row for row in usable if (row.length, row.sampler) == (length, sampler)]
        own = [{k: v for k, v in row.diagnostics.items() if k in COSTS} | row.metrics for row in same]
        mean, error = means_and_errors(own, (*PUBLISHED, *OTHERS, *COSTS))
        result.append(Mean(length=length, sampler=sampler, peptides=len(own), mean=mean, error=error))
    return result
