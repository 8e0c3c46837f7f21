"""Bonded forces of an OpenMM System read into arrays by term; Fourier series and maps of angles as polynomials."""

from collections import defaultdict

import numpy as np
import numpy.typing as npt
import openmm

from .expressions import Tables, numbers, plain

MAX_PERIODICITY = 6
_Array = npt.NDArray[np.float64]

# Harmonic impropers: as they are, or with the shorter way round; some readers of files write π with six digits.
_HARMONIC = "k*(theta-theta0)^2"
_WRAPPED = (
    "k*min(dtheta,2*pi-dtheta)^2;dtheta=abs(theta-theta0)",
    "k*min(dtheta,2*{pi}-dtheta)^2;dtheta=abs(theta-theta0)",
)

# Coefficients of 1, u, u², u³ from values at 0 and 1 and slopes there.
_HERMITE = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [-3, 3, -2, -1], [2, -2, 1, 1]])


def bonds(force: openmm.HarmonicBondForce) -> Tables:
    """½ k (r − r₀)²."""
    rows = [force.getBondParameters(i) for i in range(force.getNumBonds())]
    return {
        "bond_atoms": np.array([row[:2] for row in rows], np.int64).reshape(-1, 2),
        "bond_length": np.array(plain([row[2] for row in rows])),
        "bond_k": np.array(plain([row[3] for row in rows])),
    }


def angles(force: openmm.HarmonicAngleForce) -> Tables:
    """½ k (θ − θ₀)²."""
    rows = [force.getAngleParameters(i) for i in range(force.getNumAngles())]
    return {
        "angle_atoms": np.array([row[:3] for row in rows], np.int64).reshape(-1, 3),
        "angle_theta": np.array(plain([row[3] for row in rows])),
        "angle_k": np.array(plain([row[4] for row in rows])),
    }


def periodic_torsions(force: openmm.PeriodicTorsionForce) -> Tables:
    """k (1 + cos(nφ − δ)) = k + k cos δ cos nφ + k sin δ sin nφ; all n of the same four atoms in one row."""
    series: dict[tuple[int, ...], _Array] = defaultdict(lambda: np.zeros((3, MAX_PERIODICITY)))
    for i in range(force.getNumTorsions()):
        *atoms, n, phase, k = force.getTorsionParameters(i)
        if not 1 <= n <= MAX_PERIODICITY:
            raise ValueError(f"a torsion has periodicity {n}: the batched energy has 1 to {MAX_PERIODICITY}")
        phase, k = plain([phase, k])
        series[tuple(atoms)][:, n - 1] += k, k * np.cos(phase), k * np.sin(phase)
    values = np.array(list(series.values())).reshape(-1, 3, MAX_PERIODICITY)
    return {
        "torsion_atoms": np.array(list(series), np.int64).reshape(-1, 4),
        "torsion_constant": values[:, 0].sum(-1),
        "torsion_cos": values[:, 1],
        "torsion_sin": values[:, 2],
    }


def ryckaert_bellemans(force: openmm.RBTorsionForce) -> Tables:
    """Σ c_n cos^n(φ − π), n to 5, as a Fourier series."""
    rows = [force.getTorsionParameters(i) for i in range(force.getNumTorsions())]
    powers = np.array([plain(row[4:]) for row in rows]).reshape(-1, 6) * (-1.0) ** np.arange(6)
    series = np.zeros((len(rows), MAX_PERIODICITY + 1))
    for row, power in zip(series, powers, strict=True):
        fourier = np.polynomial.chebyshev.poly2cheb(power)  # cos nφ is Chebyshev's T_n of cos φ
        row[: len(fourier)] = fourier
    return {
        "torsion_atoms": np.array([row[:4] for row in rows], np.int64).reshape(-1, 4),
        "torsion_constant": series[:, 0],
        "torsion_cos": series[:, 1:],
        "torsion_sin": np.zeros((len(rows), MAX_PERIODICITY)),
    }


def impropers(force: openmm.CustomTorsionForce) -> Tables:
    """k (θ − θ₀)², by the shorter way round or not.

    Raises: ValueError if the expression is another.
    """
    expression = force.getEnergyFunction()
    names = [force.getPerTorsionParameterName(i) for i in range(force.getNumPerTorsionParameters())]
    found = numbers([_HARMONIC], [expression])
    period = 0.0
    if found is None:
        found = next((f for text in _WRAPPED if (f := numbers([text], [expression])) is not None), None)
        period = 2 * np.pi
    known = found is not None and np.isclose(found.pop("pi", np.pi), np.pi, rtol=1e-6) and not found
    if not known or names != ["k", "theta0"] or force.getNumGlobalParameters():
        raise ValueError(f"the batched energy does not know {force.getName()} ({expression}): use the OpenMM energy")
    rows = [force.getTorsionParameters(i) for i in range(force.getNumTorsions())]
    values = np.array([row[4] for row in rows], float).reshape(-1, 2)
    return {
        "improper_atoms": np.array([row[:4] for row in rows], np.int64).reshape(-1, 4),
        "improper_k": values[:, 0],
        "improper_theta": values[:, 1],
        "improper_period": np.full(len(rows), period),
    }


def maps(force: openmm.CMAPTorsionForce) -> Tables:
    """Maps of two dihedrals, those that are used, as bicubic polynomials (see `dihedrals.maps`)."""
    rows = [force.getTorsionParameters(i) for i in range(force.getNumTorsions())]
    used = sorted({row[0] for row in rows})
    grids = []
    for number in used:
        size, energies = force.getMapParameters(number)
        grids.append(np.array(plain(energies)).reshape(size, size).T)
    starts = np.cumsum([0, *(grid.size for grid in grids)])
    which = np.array([used.index(row[0]) for row in rows], np.int64)
    return {
        "cmap_atoms": np.array([row[1:] for row in rows], np.int64).reshape(-1, 8),
        "cmap_start": starts[which],
        "cmap_size": np.array([len(grid) for grid in grids], np.int64)[which],
        "cmap_coefficients": np.concatenate([bicubic(grid) for grid in grids] or [np.zeros((16, 0))], 1),
    }


def bicubic(grid: _Array) -> _Array:
    """Polynomials of the cells of a periodic grid, through its values, with the slopes of cubic splines through them.

    Shape: grid (n, n), values at (i, j); result (16, n²): of u^a v^b in row 4 a + b, of cell (i, j) in column n i + j.
    """
    by_u = _slopes(grid)
    by_v, by_both = _slopes(grid.T).T, _slopes(by_u.T).T
    corners = [
        [np.roll(part, (-i, -j), (0, 1)) for part in pair for j in (0, 1)]
        for pair in ((grid, by_v), (by_u, by_both))
        for i in (0, 1)
    ]
    polynomials = np.einsum("ap,pqij,bq->abij", _HERMITE, np.array(corners), _HERMITE)
    return polynomials.reshape(16, -1)


def _slopes(values: _Array) -> _Array:
    """Derivatives along the first axis, by steps of it, of periodic cubic splines through values (n, …)."""
    n = len(values)
    matrix = 4 * np.eye(n) + np.roll(np.eye(n), 1, 0) + np.roll(np.eye(n), -1, 0)
    slopes = np.linalg.solve(matrix, 3 * (np.roll(values, -1, 0) - np.roll(values, 1, 0)))
    return np.asarray(slopes, np.float64)
