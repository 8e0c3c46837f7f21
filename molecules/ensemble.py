"""A weighted ensemble: conformations of one peptide with their weights and energies. numpy alone.

Shapes: n conformations, N atoms. Units: nm, kT.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ensemble:
    """Weighted conformations that one sampler made of one peptide.

    `chunks`: the conformations in order, some at a time; it can be gone through again. `diagnostics` of the sampler and
    `metrics` against a reference, by name. `steps`: SMC's path from the proposals to the target.

    Shape: chunks (…, N, 3), n rows in all; log_weights, energy_kT, log_q (n,), −inf and +inf for what failed.
    Raises: ValueError for shapes that differ, or a log-weight of NaN or +inf.
    """

    name: str
    chunks: Iterable[NDArray[np.float32]]
    log_weights: Floats
    energy_kT: Floats
    log_q: Floats | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    steps: list[dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        n, columns = len(self.log_weights), [self.log_weights, self.energy_kT]
        columns += [] if self.log_q is None else [self.log_q]
        if n == 0 or any(column.shape != (n,) for column in columns):
            shapes = ", ".join(str(column.shape) for column in columns)
            raise ValueError(f"{self.name}: log-weights, energies … of shapes {shapes}: give one of each, at least one")
        if not (self.log_weights < np.inf).all():
            raise ValueError(f"{self.name}: log-weights hold NaN or +inf; give failed conformations -inf")

    @cached_property
    def positions_nm(self) -> NDArray[np.float32]:
        """All conformations (n, N, 3), in memory. Raises: ValueError if there are not n of them."""
        chunks = list(self.chunks)
        positions = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
        if len(positions) != len(self.log_weights):
            raise ValueError(f"{self.name}: {len(positions)} conformations with {len(self.log_weights)} log-weights")
        return positions

    @cached_property
    def weights(self) -> Floats:
        """Weights (n,) that sum to 1, or are all zero."""
        log_w = self.log_weights.astype(np.float64)
        weights = np.exp(log_w - max(log_w.max(), np.finfo(np.float64).min))
        return weights / max(weights.sum(), 1.0)

    @property
    def independent_draws(self) -> float:
        """Most that all are worth: SMC's distinct ancestors, infinite for draws that are independent."""
        return float(max(self.diagnostics.get("n_roots", np.inf), 1.0))

    @property
    def effective_draws(self) -> float:
        """Effective sample size, of the sampler's raw weights if it reported them (smoothing hides a collapse)."""
        squares = float(np.square(self.weights).sum())
        fraction = self.diagnostics.get("ess", 1.0 / squares / len(self.weights) if squares else 0.0)
        return fraction * len(self.weights)
