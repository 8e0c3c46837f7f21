"""Peptides of a finetuning, and what is measured of each and over all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from boltzray.molecules.peptide import Peptide

from ..sampling.atom_order import OrderedPeptide
from .round_record import mean_ess


class Peptides(NamedTuple):
    """Peptides of a finetuning, as the flow takes them: those that it learns from, and those that only judge it."""

    learned: Sequence[OrderedPeptide]
    validation: Sequence[OrderedPeptide] = ()


@dataclass(frozen=True, eq=False)
class Member:
    """A peptide of a run, and its structure as text."""

    ordered: OrderedPeptide
    pdb: str
    learned: bool

    @classmethod
    def of(cls, ordered: OrderedPeptide, *, learned: bool) -> "Member":
        return cls(ordered, ordered.peptide.to_pdb(), learned)

    @property
    def peptide(self) -> Peptide:
        """As the flow takes it."""
        return self.ordered.peptide

    @property
    def name(self) -> str:
        """Its sequence."""
        return self.peptide.sequence


def no_weights(n: int) -> dict[str, Any]:
    """The diagnostics of `n` draws none of which has a weight."""
    counts = {"n": n, "n_failed": n, "ess": 0.0, "ess_error": 0.0}
    return counts | {"k_hat": None, "max_weight_share": 1.0, "energy_w2": None}


def pooled(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Diagnostics over peptides, as `RoundRecord` has them."""
    ess, error = mean_ess(found)
    k_hats = [one["k_hat"] for one in found if one["k_hat"] is not None]
    return {
        "n": sum(one["n"] for one in found),
        "ess": ess,
        "ess_error": error,
        "k_hat": float(np.median(k_hats)) if k_hats else None,
        "max_weight_share": float(np.mean([one["max_weight_share"] for one in found])),
        "n_failed": sum(one["n_failed"] for one in found),
        "energy_w2": None,
    }


def brief(found: Mapping[str, Any]) -> dict[str, Any]:
    """The diagnostics that a record has of each of several peptides."""
    return {name: found[name] for name in ("n", "ess", "ess_error", "k_hat")}
