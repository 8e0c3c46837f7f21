"""How far a generated ensemble is from a reference: the published metrics, with weights.

Shapes: n reference frames, m generated frames, N atoms. Angles in radians, energies in kT.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from openmm.app import Topology
from sklearn.cluster import KMeans

from molecules.observables import Tica, chirality_signs, dihedrals, project, unmirror
from molecules.transport import jensen_shannon, squared_distances, transport, wasserstein_1d

Floats = NDArray[np.float64]

MAX_FRAMES = 10_000  # of each set, as in the published tables
CLUSTERS = 20
REFERENCE_BLOCKS = 100  # MD frames are correlated in time: intervals redraw blocks of them


class HasTopology(Protocol):
    """All that the metrics need of a peptide."""

    @property
    def topology(self) -> Topology: ...


def kish_ess(log_weights: ArrayLike) -> float:
    """Effective sample size over n, (Σw)² / (n Σw²), between 1/n and 1.

    Raises: ValueError when a weight is NaN or infinite, or when all are zero.
    """
    log_w = _log_weights(log_weights, np.size(log_weights))
    weights = np.exp(log_w - log_w.max())
    return float(weights.sum() ** 2 / (weights @ weights) / len(weights))


def thin(weights: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
    """At most k rows that stand for all: heavy ones keep their weight, the rest is a systematic sample.

    Equal weights give evenly spaced rows. Every weighted mean stays unbiased up to the phase of the
    systematic sample, which is fixed, and no row comes twice.

    Shape: (n,) -> rows (k,), weights (k,).
    Source: Fearnhead & Clifford 2003, section 3.
    """
    if len(weights) <= k:
        return np.arange(len(weights)), weights
    ordered = np.sort(weights)[::-1]
    rest = np.cumsum(ordered[::-1])[::-1]  # what remains when the h heaviest are kept as they are
    n_heavy = int(np.argmax(ordered[:k] * (k - np.arange(k)) <= rest[:k]))
    level = rest[n_heavy] / (k - n_heavy)
    share = np.cumsum(np.minimum(weights / level, 1.0))
    phase = 0.4999  # not a fraction on which equal weights put a boundary, where rounding would decide
    rows = np.searchsorted(share, np.arange(k) + phase)
    return rows, np.maximum(weights[rows], level)


def compare(
    reference_nm: ArrayLike,
    generated_nm: ArrayLike,
    reference_kT: ArrayLike,
    generated_kT: ArrayLike,
    peptide: HasTopology,
    tica: Tica,
    log_weights: ArrayLike | None = None,
    *,
    intervals: int = 0,
    seed: int = 0,
) -> dict[str, float]:
    """All metrics of a generated, perhaps weighted, ensemble against a reference in order of time.

    Distances use the weights and at most 10⁴ frames of each set (`thin`). `chirality` (every sign right,
    once mirrored frames are mirrored back) and `mirrored` are plain shares of the frames whose weight is
    not zero, `ess` is of all weights. Frames of log-weight -inf may hold anything, NaN included.

    `intervals` bootstrap replicates add `NAME_low` and `NAME_high`: the value ± 1.96 bootstrap standard
    deviations, not percentiles, because redrawn sets are always farther apart than the sets themselves.
    The generated frames are redrawn as if independent: too narrow after SMC with few ancestors. Each
    replicate costs about as much as the comparison.

    Shape: (n, N, 3), (m, N, 3), (n,), (m,), log_weights (m,).
    Units: nm, kT.
    Raises: ValueError for sets that are empty, of unequal atoms, not finite, or without weight.
    Source: Tan et al. 2025, arXiv 2508.18175, for the published definitions.
    """
    topology = peptide.topology
    generated, energy_g = np.asarray(generated_nm), np.asarray(generated_kT, dtype=np.float64)
    log_w = np.zeros(len(generated)) if log_weights is None else _log_weights(log_weights, len(generated))
    alive = log_w > -np.inf
    reference, energy_r = _checked("reference", np.asarray(reference_nm), reference_kT, topology)
    if len(energy_g) == len(generated) == len(alive):
        generated, energy_g, log_w = generated[alive], energy_g[alive], log_w[alive]
    generated, energy_g = _checked("generated", generated, energy_g, topology)
    if len(reference) < CLUSTERS:
        raise ValueError(f"the reference has {len(reference)} frames, {CLUSTERS} or more are needed; simulate longer")

    signs = np.where(chirality_signs(reference, topology).sum(axis=0, dtype=np.int64) >= 0, 1, -1).astype(np.int8)
    generated, mirrored, correct = unmirror(generated, topology, signs)
    weights = np.exp(np.maximum(log_w - log_w.max(), -300.0))  # a redraw without the heavy frames keeps a sum above 0
    rows, p = thin(np.ones(len(reference)), MAX_FRAMES)
    reference, energy_r = reference[rows], energy_r[rows]
    rows, q = thin(weights, MAX_FRAMES)
    generated, energy_g = generated[rows], energy_g[rows]

    result: dict[str, float] = {}

    def record(name: str, metric: Callable[[Floats, Floats], float], n: int, m: int) -> None:
        """`metric` takes how often each reference and each generated frame is drawn."""
        result[name] = metric(np.ones(n), np.ones(m))
        if intervals:
            rng = np.random.default_rng(seed)
            draws = [metric(_redraw(rng, n, REFERENCE_BLOCKS), _redraw(rng, m, m)) for _ in range(intervals)]
            margin = 1.96 * float(np.std(draws))
            result[f"{name}_low"] = max(result[name] - margin, 0.0)
            result[f"{name}_high"] = result[name] + margin

    def distance(name: str, metric: Callable[[Floats, Floats], float]) -> None:
        record(name, lambda a, b: metric(a * p, b * q), len(p), len(q))

    def share(name: str, hits: NDArray[np.bool_]) -> None:
        record(name, lambda _, b: float(b @ hits / b.sum()), 1, len(hits))

    n_all = len(alive)
    record("ess", lambda _, b: float((b @ weights) ** 2 / (b @ weights**2) / n_all), 1, len(weights))
    distance("energy_w2", lambda a, b: wasserstein_1d(energy_r, energy_g, a, b, order=2))
    distance("energy_w1", lambda a, b: wasserstein_1d(energy_r, energy_g, a, b, order=1))

    angles_r, angles_g = dihedrals(reference, topology), dihedrals(generated, topology)
    torus_r, torus_g = (np.concatenate(angles[:2], axis=1) for angles in (angles_r, angles_g))
    distance("torus_w2", _root_of_transport(torus_r, torus_g, period=2 * np.pi))
    tics_r, tics_g = (project(tica, x, topology)[:, :2] for x in (reference, generated))
    distance("tica_w2", _root_of_transport(tics_r, tics_g))
    distance("tica_jsd", _cluster_divergence(tics_r, tics_g))
    circle_r, circle_g = (
        np.concatenate([f(x) for x in a for f in (np.sin, np.cos)], axis=1) for a in (angles_r, angles_g)
    )
    distance("torus_jsd", _cluster_divergence(circle_r, circle_g))
    share("chirality", correct)
    share("mirrored", mirrored)
    return result


def _root_of_transport(x: Floats, y: Floats, period: float | None = None) -> Callable[[Floats, Floats], float]:
    cost = squared_distances(x, y, period)  # once for all replicates, freed before the next metric
    return lambda p, q: transport(cost, p, q) ** 0.5


def _cluster_divergence(x: Floats, y: Floats) -> Callable[[Floats, Floats], float]:
    clusters = KMeans(CLUSTERS, random_state=0, n_init=1).fit(x)
    labels_x, labels_y = clusters.predict(x), clusters.predict(y)

    def counts(labels: NDArray[Any], w: Floats) -> Floats:
        return np.bincount(labels, w * (len(w) / w.sum()), CLUSTERS).astype(np.float64)

    return lambda p, q: jensen_shannon(counts(labels_x, p), counts(labels_y, q))


def _redraw(rng: np.random.Generator, n: int, blocks: int) -> Floats:
    """How often each of n frames is drawn when contiguous blocks of them are."""
    block = np.arange(n) * min(blocks, n) // n
    n_blocks = block[-1] + 1
    drawn = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks))
    return drawn.astype(np.float64)[block]


def _log_weights(log_weights: ArrayLike, n: int) -> Floats:
    log_w = np.asarray(log_weights, dtype=np.float64)
    if log_w.shape != (n,) or n == 0:
        raise ValueError(f"log_weights has shape {log_w.shape}, expected ({n},): one for each generated frame")
    if np.isnan(log_w).any() or log_w.max() == np.inf:
        raise ValueError("log_weights holds NaN or +inf; give failed frames -inf")
    if log_w.max() == -np.inf:
        raise ValueError("every log-weight is -inf: no generated frame counts; check the energies of the samples")
    return log_w


def _checked(
    name: str, positions: NDArray[Any], energies: ArrayLike, topology: Topology
) -> tuple[NDArray[Any], Floats]:
    energy = np.asarray(energies, dtype=np.float64)
    n_atoms = topology.getNumAtoms()
    if len(positions) == 0:
        raise ValueError(f"the {name} set is empty; give at least one frame")
    if positions.ndim != 3 or positions.shape[1:] != (n_atoms, 3):
        raise ValueError(f"the {name} positions have shape {positions.shape}; the peptide needs (frames, {n_atoms}, 3)")
    if energy.shape != (len(positions),):
        raise ValueError(
            f"the {name} energies have shape {energy.shape}; give one for each of the {len(positions)} frames"
        )
    bad = int((~(np.isfinite(positions).all(axis=(1, 2)) & np.isfinite(energy))).sum())
    if bad:
        raise ValueError(
            f"{bad} of {len(positions)} {name} frames are not finite in positions or energy; "
            "drop them or give them log-weight -inf"
        )
    return positions, energy
