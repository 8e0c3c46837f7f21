"""The file metrics.json: numbers and verdict of one folder of samples."""

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from boltzray.molecules.storage import read_json

from ..report.contents import Report
from ..report.verdict import headline, verdict
from ..runtime.config import write_json

FILE = "metrics.json"


@dataclass(frozen=True, kw_only=True)
class SamplerNumbers:
    """Numbers of one sampler: its own diagnostics, and its metrics against reference MD (none without any)."""

    diagnostics: dict[str, float]
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Evaluation of one peptide's samples. `verdict`: level and text of each finding; `headline` and its `level`.

    `reference`: source of the MD. `noise_floor`: metrics between its halves. `key`: see `evaluate.evaluation_key`.
    `notes`: why it was not compared, and what was left out. `states`: share and error of each in the reference and in
    each of `samplers`, and what is to be said of it.
    """

    sequence: str
    reference: str | None
    verdict: list[list[str]]
    headline: str
    level: str
    key: str = ""  # files of older versions have none, nor notes
    notes: list[str] = field(default_factory=list)
    noise_floor: dict[str, float]
    states: list[dict[str, Any]] = field(default_factory=list)
    samplers: dict[str, SamplerNumbers]

    @classmethod
    def of(cls, report: Report, key: str) -> "EvaluationResult":
        """Judge the contents of a report."""
        findings = verdict(report)
        conclusion = headline(report, findings)
        return cls(
            sequence=report.peptide.sequence,
            reference=report.reference.source if report.reference else None,
            verdict=[[finding.level, finding.text] for finding in findings],
            headline=conclusion.text,
            level=conclusion.level,
            key=key,
            notes=report.notes,
            noise_floor=report.reference.floor if report.reference else {},
            states=_states(report),
            samplers={e.name: SamplerNumbers(diagnostics=e.diagnostics, metrics=e.metrics) for e in report.ensembles},
        )

    def write(self, folder: Path) -> None:
        """Write the file, in which samplers are keys beside the other fields."""
        values = asdict(self)
        samplers = values.pop("samplers")
        write_json(folder / FILE, values | samplers)

    @classmethod
    def read(cls, folder: Path) -> "EvaluationResult | None":
        """Read the file of a folder, if it has one: keys that name no field are samplers."""
        path = folder / FILE
        return cls.from_json(read_json(path)) if path.exists() else None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "EvaluationResult":
        """Make it of the contents of the file."""
        known = {f.name for f in fields(cls)}
        samplers = {name: SamplerNumbers(**found) for name, found in values.items() if name not in known}
        return cls(**{name: value for name, value in values.items() if name in known}, samplers=samplers)


def _states(report: Report) -> list[dict[str, Any]]:
    names = [e.name for e in report.ensembles]
    return [
        {
            **asdict(row.reference),
            "r_hat": row.reference.r_hat if math.isfinite(row.reference.r_hat) else None,  # JSON has no NaN
            "samplers": {
                name: {**asdict(share), "difference": difference}
                for name, share, difference in zip(names, row.shares, row.differences, strict=True)
            },
        }
        for row in report.states
    ]
