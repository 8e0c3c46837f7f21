"""Published metrics of the distance between a generated, perhaps weighted, ensemble and a reference.

Shapes: n reference frames, m generated frames, N atoms. Angles in radians, energies in kT.
"""

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from openmm.app import Topology

from .bond_torsions import conformation_angles
from .independent_runs import halfway
from .observables import (
    Tica,
    bond_outliers,
    chirality_signs,
    clashes,
    dihedrals,
    project,
    unmirror,
)
from .subsample import checked_log_weights, weighted_subsample
from .transport import jensen_shannon, squared_distances, transport, wasserstein_1d

Floats = NDArray[np.float64]
Metric = Callable[[Floats, Floats], float]  # of the weights of two sets
Kind = Callable[[Floats, Floats, Floats], Metric]  # of two sets, and the weights of the first before it is redrawn

MAX_FRAMES = 10_000  # of each set, as in the published tables
CLUSTERS = 20
REFERENCE_BLOCKS = 100  # MD frames are correlated in time: intervals redraw blocks of them
INTERVAL_FRAMES = 2_000  # of each set in a bootstrap replicate, or it would take minutes
DISTANCES = ("energy_w2", "energy_w1", "torus_w2", "tica_w2", "tica_jsd", "torus_jsd")
METRICS = ("ess", *DISTANCES, "chirality", "mirrored", "clashing", "bad_bonds")


class HasTopology(Protocol):
    """A peptide as the metrics need it."""

    @property
    def topology(self) -> Topology: ...


def compare(
    reference_nm: ArrayLike,
    generated_nm: ArrayLike,
    reference_kT: ArrayLike,
    generated_kT: ArrayLike,
    peptide: HasTopology,
    tica: Tica,
    log_weights: ArrayLike | None = None,
    *,
    reference_log_weights: ArrayLike | None = None,
    intervals: int = 0,
    seed: int = 0,
    only: Collection[str] = METRICS,
    frames: int = MAX_FRAMES,
    threads: int = 1,
    done: Callable[[str], None] = lambda name: None,
) -> dict[str, float]:
    """Metrics (all, or `only` some) of a generated ensemble against a reference in order of time, weighted or not.

    Distances use the weights and at most `frames` of each set (`weighted_subsample`), and so do `clashing` and
    `bad_bonds`, the fractions of the weight on frames with overlapping atoms, and with a bond far from its mean length
    in the reference. Clusters are fitted to the weighted reference. `chirality` (every sign right, once mirrored frames
    are mirrored back) and `mirrored` are plain fractions of the frames whose weight is not zero, `ess` is of all
    weights. Frames of log-weight -inf, of either set, may hold anything, NaN included.

    `intervals` bootstrap replicates add `NAME_low` and `NAME_high`: the value ± 1.96 bootstrap standard
    deviations, not percentiles, because redrawn sets are always farther apart than the sets themselves.
    The generated frames are redrawn as if independent: too narrow after SMC with few ancestors. A replicate
    sees at most 2,000 frames of each set: rather too wide for more.

    `threads` compute as many metrics at a time, and `done` hears the name of each that is finished.

    Shape: (n, N, 3), (m, N, 3), (n,), (m,), log_weights (m,), reference_log_weights (n,).
    Units: nm, kT.
    Raises: ValueError for sets that are empty, of unequal atoms, not finite, or without weight.
    Source: Tan et al. 2025, arXiv 2508.18175, for the published definitions.
    """
    topology = peptide.topology
    generated, energy_g = np.asarray(generated_nm), np.asarray(generated_kT, dtype=np.float64)
    log_w = np.zeros(len(generated)) if log_weights is None else checked_log_weights(log_weights, len(generated))
    alive = log_w > -np.inf
    reference, energy_r = np.asarray(reference_nm), np.asarray(reference_kT, dtype=np.float64)
    log_w_r = np.zeros(len(reference))
    if reference_log_weights is not None:
        log_w_r = checked_log_weights(reference_log_weights, len(reference), "reference")
        if len(energy_r) == len(reference):
            counts = log_w_r > -np.inf
            reference, energy_r, log_w_r = reference[counts], energy_r[counts], log_w_r[counts]
    reference, energy_r = _checked("reference", reference, energy_r, topology)
    if len(energy_g) == len(generated) == len(alive):
        generated, energy_g, log_w = generated[alive], energy_g[alive], log_w[alive]
    generated, energy_g = _checked("generated", generated, energy_g, topology)
    if len(reference) < CLUSTERS:
        raise ValueError(f"the reference has {len(reference)} frames, {CLUSTERS} or more are needed; simulate longer")

    signs = np.where(chirality_signs(reference, topology).sum(axis=0, dtype=np.int64) >= 0, 1, -1).astype(np.int8)
    generated, mirrored, correct = unmirror(generated, topology, signs)
    # The floor gives a bootstrap sample without heavy frames a sum above 0.
    weights, weights_r = (np.exp(np.maximum(log - log.max(), -300.0)) for log in (log_w, log_w_r))
    rows, p = weighted_subsample(weights_r, frames)
    reference, energy_r = reference[rows], energy_r[rows]
    rows, q = weighted_subsample(weights, frames)
    generated, energy_g = generated[rows], energy_g[rows]

    def record(name: str, metric: Metric, n: int, m: int, value: float | None = None) -> dict[str, float]:
        """`metric` takes the counts of each reference and each generated frame in a bootstrap sample."""
        value = metric(np.ones(n), np.ones(m)) if value is None else value
        if not intervals:
            return {name: value}
        rng = np.random.default_rng(seed)
        draws = [metric(_redraw(rng, n, REFERENCE_BLOCKS), _redraw(rng, m, m)) for _ in range(intervals)]
        margin = 1.96 * float(np.std(draws))
        return {name: value, f"{name}_low": max(value - margin, 0.0), f"{name}_high": value + margin}

    def distance(name: str, kind: Kind, x: Floats, y: Floats) -> dict[str, float]:
        value = kind(x, y, p)(p, q)
        (i, p_i), (j, q_j) = weighted_subsample(p, INTERVAL_FRAMES), weighted_subsample(q, INTERVAL_FRAMES)
        metric = cache(lambda: kind(x[i], y[j], p_i))  # made if there are intervals
        return record(name, lambda a, b: metric()(a * p_i, b * q_j), len(i), len(j), value)

    def fraction(name: str, hits: NDArray[np.bool_], w: Floats) -> dict[str, float]:
        return record(name, lambda _, b: float((b * w) @ hits / (b @ w)), 1, len(hits))

    tics = cache(lambda: (_tics(tica, reference, topology), _tics(tica, generated, topology)))
    angles = cache(lambda: (_angles(reference, topology), _angles(generated, topology)))
    circles = cache(lambda: (_circles(reference, topology), _circles(generated, topology)))
    n_all = len(alive)
    metrics: dict[str, Callable[[str], dict[str, float]]] = {
        "ess": lambda k: record(k, lambda _, b: float((b @ weights) ** 2 / (b @ weights**2) / n_all), 1, len(weights)),
        "energy_w2": lambda k: distance(k, partial(_on_line, 2), energy_r, energy_g),
        "energy_w1": lambda k: distance(k, partial(_on_line, 1), energy_r, energy_g),
        "torus_w2": lambda k: distance(k, partial(_root_of_transport, 2 * np.pi), *angles()),
        "tica_w2": lambda k: distance(k, partial(_root_of_transport, None), *tics()),
        "tica_jsd": lambda k: distance(k, _cluster_divergence, *tics()),
        "torus_jsd": lambda k: distance(k, _cluster_divergence, *circles()),
        "chirality": lambda k: fraction(k, correct, np.ones(len(correct))),
        "mirrored": lambda k: fraction(k, mirrored, np.ones(len(mirrored))),
        "clashing": lambda k: fraction(k, clashes(generated, topology) > 0, q),
        "bad_bonds": lambda k: fraction(k, bond_outliers(generated, topology, reference, _unless_equal(p)) > 0, q),
    }

    def one(name: str) -> dict[str, float]:
        found = metrics[name](name)
        done(name)
        return found

    with ThreadPoolExecutor(threads) as pool:  # optimal transport, which takes the time, leaves the interpreter free
        found = pool.map(one, (name for name in METRICS if name in only))
        return {key: value for part in found for key, value in part.items()}


def noise_floor(
    reference_nm: ArrayLike,
    reference_kT: ArrayLike,
    peptide: HasTopology,
    tica: Tica,
    *,
    log_weights: ArrayLike | None = None,
    run_lengths: Sequence[int] = (),
    **options: Any,
) -> dict[str, float]:
    """`compare` of the two halves of a reference: no sampler can be seen to be closer to it than that.

    Of several runs, each half has whole ones: frames of one run are alike, and halves that share it, too. Where the
    halves differ the reference itself is too short. Empty when it has too few frames.

    Shape: (n, N, 3), (n,), log_weights (n,), run_lengths that sum to n. Units: nm, kT.
    """
    positions, energy = np.asarray(reference_nm), np.asarray(reference_kT)
    n = len(positions)
    half = halfway(n, run_lengths, CLUSTERS)
    log_w = np.zeros(n) if log_weights is None else checked_log_weights(log_weights, n, "reference")
    first, second = slice(0, half), slice(half, None)
    if (log_w[first] > -np.inf).sum() < CLUSTERS or not (log_w[second] > -np.inf).any():
        return {}
    found = compare(
        *(positions[first], positions[second], energy[first], energy[second], peptide, tica, log_w[second]),
        reference_log_weights=log_w[first],
        **options,
    )
    return {name: value for name, value in found.items() if name != "ess"}


def _angles(positions: NDArray[Any], topology: Topology) -> Floats:
    return conformation_angles(positions, topology)


def _circles(positions: NDArray[Any], topology: Topology) -> Floats:
    angles: Sequence[Floats] = dihedrals(positions, topology)
    if not angles[0].shape[1] + angles[1].shape[1]:  # no peptide
        angles = [conformation_angles(positions, topology)]
    return np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1)


def _tics(tica: Tica, positions: NDArray[Any], topology: Topology) -> Floats:
    return project(tica, positions, topology)[:, :2]


def _on_line(order: int, x: Floats, y: Floats, _: Floats) -> Metric:
    return lambda p, q: wasserstein_1d(x, y, p, q, order)


def _root_of_transport(period: float | None, x: Floats, y: Floats, _: Floats) -> Metric:
    cost = squared_distances(x, y, period)  # once for all replicates, freed before the next metric
    return lambda p, q: transport(cost, p, q) ** 0.5


def _cluster_divergence(x: Floats, y: Floats, weights: Floats) -> Metric:
    from sklearn.cluster import KMeans  # seconds to import

    if not x.shape[1]:  # a molecule that nothing turns in
        return lambda p, q: 0.0
    clusters = KMeans(CLUSTERS, random_state=0, n_init=1).fit(x, sample_weight=_unless_equal(weights))
    labels_x, labels_y = clusters.predict(x), clusters.predict(y)

    def counts(labels: NDArray[Any], w: Floats) -> Floats:
        return np.bincount(labels, w * (len(w) / w.sum()), CLUSTERS).astype(np.float64)

    return lambda p, q: jensen_shannon(counts(labels_x, p), counts(labels_y, q))


def _unless_equal(weights: Floats) -> Floats | None:
    """Weights, or None for equal ones, which would change the last digits of a plain mean."""
    return weights if np.ptp(weights) else None


def _redraw(rng: np.random.Generator, n: int, blocks: int) -> Floats:
    """Counts (n,) of a bootstrap sample of n frames that is drawn in contiguous blocks."""
    block = np.arange(n) * min(blocks, n) // n
    n_blocks = block[-1] + 1
    drawn = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks))
    return drawn.astype(np.float64)[block]


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
