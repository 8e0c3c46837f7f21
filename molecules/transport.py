"""Exact distances between weighted samples: Wasserstein on the line, optimal transport, Jensen-Shannon.

Weights need not be normalised. Shapes: n rows of one set, m of the other, K coordinates.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DENSE_LIMIT = 2_000_000  # entries of the cost matrix up to which POT's dense solver is the faster one
SEED_ROWS = 3000  # size of the small problem that gives the first dual potentials
NEIGHBOURS = 30  # arcs of least reduced cost that each row and column starts with
TOLERANCE = 1e-10  # relative to the largest cost: below it a reduced cost counts as not negative
GAP = 1e-6  # relative, between a plan's cost and the proven bound below it: a root of it is off by half of that
KEPT = 0.3  # arcs of a reduced cost above this part of the worst violation are left out of the next solution
ROWS = 256  # rows of the cost matrix worked on at once
ROWS_IN_CACHE = 4  # the same, of many operations on the same numbers


def wasserstein_1d(x: Floats, y: Floats, p: Floats, q: Floats, order: int) -> float:
    """Exact Wasserstein distance of `order` on the line: the distance of the two quantile functions.

    The root of POT's `ot.wasserstein_1d`, the tests' oracle, which clips the last quantile: there rounding may give
    mass to a row without weight.

    Shape: x, p (n,), y, q (m,).
    """
    i, j = np.argsort(x), np.argsort(y)
    # Divided by the last of the sums: rounding must leave no mass for a clash of 10¹⁰ kT that has no weight.
    below_x, below_y = (total[:-1] / total[-1] for total in (np.cumsum(p[i]), np.cumsum(q[j])))
    steps = np.concatenate([[0.0], np.sort(np.concatenate([below_x, below_y])), [1.0]])
    middle = (steps[1:] + steps[:-1]) / 2
    gaps = np.abs(x[i][np.searchsorted(below_x, middle)] - y[j][np.searchsorted(below_y, middle)])
    return float((gaps**order @ np.diff(steps)) ** (1 / order))


def jensen_shannon(counts_p: Floats, counts_q: Floats) -> float:
    """Jensen-Shannon divergence in bits (0 to 1) of two histograms; 1e-10 is added to every count."""
    p, q = ((c + 1e-10) / (c + 1e-10).sum() for c in (counts_p, counts_q))
    mean = (p + q) / 2
    return float((p @ np.log2(p / mean) + q @ np.log2(q / mean)) / 2)


def squared_distances(x: Floats, y: Floats, period: float | None = None) -> Floats:
    """Sum over coordinates of the squared difference, wrapped when there is a period.

    One coordinate and a few rows at a time: a (n, m, K) array never exists, and what does stays in the cache.

    Shape: (n, K), (m, K) -> (n, m).
    """
    cost = np.zeros((len(x), len(y)))
    if period is not None:
        x, y = x % period, y % period
    columns = np.ascontiguousarray(y.T)
    room = np.empty((2, ROWS_IN_CACHE, len(y)))
    for start in range(0, len(x), ROWS_IN_CACHE):
        block = cost[start : start + ROWS_IN_CACHE]
        gap, other = room[:, : len(block)]
        for a, b in zip(x[start : start + ROWS_IN_CACHE].T, columns, strict=True):
            np.abs(np.subtract(a[:, None], b, out=gap), out=gap)
            if period is not None:
                np.minimum(gap, np.subtract(period, gap, out=other), out=gap)
            block += np.multiply(gap, gap, out=gap)
    return cost


def transport(cost: Floats, p: Floats, q: Floats) -> float:
    """Least mean cost of moving the weights p onto q, exactly.

    POT's dense solver holds four more matrices of the size of `cost` (4.4 GB for 10⁴ x 10⁴). So a large
    problem is solved on few arcs, and arcs of negative reduced cost are added until there is none, or the dual
    potentials prove that they gain nothing: the plan is then optimal for the whole matrix, to `GAP`.

    Shape: cost (n, m), p (n,), q (m,).
    Source: column generation; network simplex of Bonneel et al. 2011 in POT.
    """
    import ot  # POT and scipy.sparse take seconds to import
    from scipy.sparse import coo_matrix

    rows, columns = np.nonzero(p > 0)[0], np.nonzero(q > 0)[0]
    if len(rows) < len(p) or len(columns) < len(q):
        cost, p, q = cost[np.ix_(rows, columns)], p[rows], q[columns]
    p, q = p / p.sum(), q / q.sum()
    if cost.size <= DENSE_LIMIT or min(cost.shape) <= NEIGHBOURS:
        return max(float(ot.emd2(p, q, cost, numItermax=10**9)), 0.0)
    u, v = _first_potentials(cost, p, q)
    m = len(q)
    arcs = _distinct(_northwest_arcs(p, q, m), _best_arcs(cost, u, v, m))
    tolerance, last = TOLERANCE * cost.max(), np.inf
    while True:
        i, j = np.divmod(arcs, m)
        _, log = ot.emd(p, q, coo_matrix((cost[i, j], (i, j)), cost.shape), numItermax=10**9, log=True)
        if log["warning"]:
            raise RuntimeError(f"optimal transport did not converge: {log['warning']}")
        value, u, v = float(log["cost"]), log["u"], log["v"]
        violated, slack = _violated_arcs(cost, u, v, tolerance, m)
        gap, more = value - (u @ p + (v + slack) @ q), _distinct(arcs, violated)
        if gap <= GAP * value or len(more) == len(arcs):
            return max(value, 0.0)
        if gap < 0.5 * last:  # else it keeps all, so that it ends
            more = _distinct(arcs[cost[i, j] - u[i] - v[j] <= KEPT * -slack.min()], violated)
        arcs, last = more, min(last, gap)


def _distinct(*arcs: NDArray[np.int64]) -> NDArray[np.int64]:
    """All arcs once, in order. (`np.unique` hashes integers, which takes four times as long.)"""
    every = np.sort(np.concatenate(arcs))
    return every[np.append(True, every[1:] != every[:-1])]


def _first_potentials(cost: Floats, p: Floats, q: Floats) -> tuple[Floats, Floats]:
    """Potentials of a small problem drawn by weight, carried to every row and column (c-transform)."""
    import ot

    rng = np.random.default_rng(0)
    i, j = np.sort(rng.choice(len(p), SEED_ROWS, p=p)), np.sort(rng.choice(len(q), SEED_ROWS, p=q))
    (i, a), (j, b) = np.unique(i, return_counts=True), np.unique(j, return_counts=True)
    _, log = ot.emd2(a / a.sum(), b / b.sum(), cost[np.ix_(i, j)], numItermax=10**9, log=True)
    v = (cost[i] - log["u"][:, None]).min(axis=0)
    u = np.concatenate([(cost[s : s + ROWS] - v).min(axis=1) for s in range(0, len(cost), ROWS)])
    return u, v


def _northwest_arcs(p: Floats, q: Floats, m: int) -> NDArray[np.int64]:
    """Arcs of one plan that meets both marginals, so that the sparse problem has a solution."""
    below_p, below_q = np.cumsum(p)[:-1], np.cumsum(q)[:-1]
    edges = np.concatenate([[0.0], below_p, below_q])
    arcs = [
        np.searchsorted(below_p, edges, side=s) * m + np.searchsorted(below_q, edges, side=s) for s in ("left", "right")
    ]
    return np.concatenate(arcs)


def _best_arcs(cost: Floats, u: Floats, v: Floats, m: int) -> NDArray[np.int64]:
    """The arcs of least reduced cost of every row and of every column."""
    arcs = []
    for start in range(0, len(u), ROWS):
        near = np.argpartition(cost[start : start + ROWS] - v, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        arcs.append((np.arange(start, start + len(near))[:, None] * m + near).ravel())
    for start in range(0, m, ROWS):
        block = np.ascontiguousarray(cost[:, start : start + ROWS].T)
        near = np.argpartition(block - u, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        arcs.append((near * m + np.arange(start, start + len(near))[:, None]).ravel())
    return np.concatenate(arcs)


def _violated_arcs(cost: Floats, u: Floats, v: Floats, tolerance: float, m: int) -> tuple[NDArray[np.int64], Floats]:
    """Arcs of negative reduced cost, the NEIGHBOURS worst of a row and the worst of a column; the least of each column.

    With that added to v the potentials are feasible: their value is a bound of the least cost from below.
    """
    arcs, slack, best = [np.empty(0, dtype=np.int64)], np.full(m, np.inf), np.zeros(m, dtype=np.int64)
    for start in range(0, len(u), ROWS):
        reduced = cost[start : start + ROWS] - u[start : start + ROWS, None]
        reduced -= v
        lowest = reduced.argmin(axis=0)
        least = reduced[lowest, np.arange(m)]
        best = np.where(least < slack, start + lowest, best)
        np.minimum(slack, least, out=slack)
        bad = np.nonzero(reduced.min(axis=1) < -tolerance)[0]
        if len(bad):
            near = np.argpartition(reduced[bad], NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
            row, k = np.nonzero(np.take_along_axis(reduced[bad], near, axis=1) < -tolerance)
            arcs.append((start + bad[row]) * m + near[row, k])
    columns = np.flatnonzero(slack < -tolerance)
    return np.concatenate([*arcs, best[columns] * m + columns]), slack
