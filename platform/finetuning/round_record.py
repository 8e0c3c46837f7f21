"""The record of a finetuning round, as rounds.json has it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from boltzray.molecules.storage import read_json

from ..runtime.config import write_json

ROUNDS = "rounds.json"


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """Quality of the flow after `round` rounds of learning, measured on `n` proposals of its own, and the cost so far.

    `ess` is a fraction of n, `ess_error` its standard error, `energy_w2` in kT (None without reference MD, or where
    `draw_k` and `target_k` differ), temperatures in K, `seconds` of work. `learning`: means over the optimiser steps of
    the round that has ended of `loss`, of each term and of `grad_norm`, and `skipped_steps`; empty before any learning.
    `final`: the last one. On disk and for callers, `learning` stands among the other keys: `to_json`, `from_json`.

    Of several peptides `ess` and `max_weight_share` are means over those that are learned from, `ess_error` the error
    that the draws leave in that mean, `k_hat` the median, `n` and `n_failed` sums, `energy_w2` None. `peptides` has
    `n`, `ess`, `ess_error` and `k_hat` of each of them, `validation` the same of those that are not learned from.
    """

    round: int
    energies: int
    n: int
    ess: float
    ess_error: float = math.nan  # missing in files of the first version
    k_hat: float | None
    max_weight_share: float
    n_failed: int
    energy_w2: float | None
    draw_k: float
    target_k: float
    learning: Mapping[str, float] = field(default_factory=dict)
    seconds: float
    final: bool
    peptides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    validation: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def judged(self) -> tuple[float, float]:
        """ESS that tells whether the flow is better, and its error: of peptides that it does not learn from, if any."""
        return mean_ess(list(self.validation.values())) if self.validation else (self.ess, self.ess_error)

    @property
    def validation_means(self) -> dict[str, float]:
        """`judged` by the names that tables and MLflow have; empty without such peptides."""
        return dict(zip(("val_ess", "val_ess_error"), self.judged, strict=True)) if self.validation else {}

    @property
    def numbers(self) -> dict[str, Any]:
        """As `to_json`, of all peptides together."""
        flat = self.to_json() | self.validation_means
        return {key: value for key, value in flat.items() if key not in ("peptides", "validation")}

    @property
    def on_target(self) -> bool:
        """Return True if proposals and target have one temperature, which makes the ESS comparable."""
        return self.draw_k == self.target_k

    def to_json(self) -> dict[str, Any]:
        """A plain dict, flat but for `peptides` and `validation`."""
        flat: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if value or f.name not in ("peptides", "validation"):
                flat |= value if f.name == "learning" else {f.name: value}
        return flat

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "RoundRecord":
        """The record that `to_json` made `entry` of. Raises: TypeError where a key is missing."""
        known = {f.name for f in fields(cls)}
        own = {key: value for key, value in entry.items() if key in known}
        return cls(**own, learning={key: value for key, value in entry.items() if key not in known})


def mean_ess(found: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Mean of `ess` over peptides, and the error that the draws of each leave in it."""
    errors = math.sqrt(sum(one["ess_error"] ** 2 for one in found))
    return sum(one["ess"] for one in found) / len(found), errors / len(found)


def read_records(folder: Path) -> list[RoundRecord]:
    """All rounds of a finetuning's folder so far. Raises: DamagedFile."""
    path = folder / ROUNDS
    return [RoundRecord.from_json(entry) for entry in read_json(path)] if path.exists() else []


def write_records(folder: Path, records: Sequence[RoundRecord]) -> None:
    """Write rounds.json, whole or not at all."""
    write_json(folder / ROUNDS, [record.to_json() for record in records])
