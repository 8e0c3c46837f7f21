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

    @property
    def on_target(self) -> bool:
        """Return True if proposals and target have one temperature, which makes the ESS comparable."""
        return self.draw_k == self.target_k

    def to_json(self) -> dict[str, Any]:
        """A plain, flat dict."""
        flat: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            flat |= value if f.name == "learning" else {f.name: value}
        return flat

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "RoundRecord":
        """The record that `to_json` made `entry` of. Raises: TypeError where a key is missing."""
        known = {f.name for f in fields(cls)}
        own = {key: value for key, value in entry.items() if key in known}
        return cls(**own, learning={key: value for key, value in entry.items() if key not in known})


def read_records(folder: Path) -> list[RoundRecord]:
    """All rounds of a finetuning's folder so far. Raises: DamagedFile."""
    path = folder / ROUNDS
    return [RoundRecord.from_json(entry) for entry in read_json(path)] if path.exists() else []


def write_records(folder: Path, records: Sequence[RoundRecord]) -> None:
    """Write rounds.json, whole or not at all."""
    write_json(folder / ROUNDS, [record.to_json() for record in records])
