"""Temperatures of a ladder of replica exchange, chosen such that neighbours swap at a wanted rate."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr, ndtr

from .replica_exchange import MAX_RUNGS

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LadderChoice:
    """Temperatures of the rungs, lowest first, and the swap rate expected of each pair of neighbours."""

    temperatures_k: tuple[float, ...]
    expected_swap_rates: tuple[float, ...]


def geometric(lowest_k: float, highest_k: float, rungs: int) -> tuple[float, ...]:
    """Temperatures of which each is the same multiple of the one below; to 0.01 K, but for the lowest."""
    inner = [round(float(t), 2) for t in np.geomspace(lowest_k, highest_k, rungs)[1:]]
    return (lowest_k, *inner)


def choose_ladder(temperatures_k: ArrayLike, mean_energy_kT: ArrayLike, swap_rate: float) -> LadderChoice:
    """Choose the geometric ladder over the range of a pilot whose mean swap rate is closest to `swap_rate`.

    `mean_energy_kT`: mean potential energies at the pilot's temperatures, in kT of the lowest.
    Raises: ValueError if even `MAX_RUNGS` rungs are too few, or energies do not rise.
    """
    temperature = np.asarray(temperatures_k, dtype=np.float64)
    mean = np.asarray(mean_energy_kT, dtype=np.float64)
    fit = fit_energies(temperature, mean)
    if not (np.isfinite(mean).all() and fit(temperature[-1]) > fit(temperature[0])):
        raise ValueError("the energies of the pilot do not rise with temperature: give a longer remd.pilot_ps")
    best, miss = None, np.inf
    for rungs in range(2, MAX_RUNGS + 1):
        ladder = geometric(float(temperature[0]), float(temperature[-1]), rungs)
        rates = expected_swap_rates(ladder, fit)
        if (off := abs(float(rates.mean()) - swap_rate)) > miss:
            break  # rates rise with the number of rungs
        best, miss = LadderChoice(temperatures_k=ladder, expected_swap_rates=tuple(map(float, rates))), off
    assert best is not None
    if min(best.expected_swap_rates) < swap_rate / 3:
        raise ValueError(
            f"no geometric ladder of at most {MAX_RUNGS} rungs swaps at {swap_rate:g} up to {temperature[-1]:g} K: "
            "lower remd.max_temperature_k, or give remd.temperatures_k"
        )
    return best


def fit_energies(temperature_k: Floats, mean_energy_kT: Floats) -> np.polynomial.Polynomial:
    """Mean potential energy, in kT of the lowest temperature, as a quadratic in T: it evens out a pilot's noise."""
    return np.polynomial.Polynomial.fit(temperature_k, mean_energy_kT, min(2, len(temperature_k) - 1))


def expected_swap_rates(temperatures_k: ArrayLike, energies: np.polynomial.Polynomial) -> Floats:
    """Mean Metropolis acceptance of swaps between neighbours, whose energies are normal at each temperature.

    Their variance follows from the heat capacity: var(U) = k T² dU/dT. Shape: (R,) -> (R − 1,).
    Source: E[min(1, eˣ)] of x ~ N(μ, s²) is Φ(μ/s) + exp(μ + s²/2) Φ(−s − μ/s); Kofke 2002, J. Chem. Phys. 117, 6911.
    """
    t = np.asarray(temperatures_k, dtype=np.float64)
    mean, variance = energies(t), np.maximum(t**2 * energies.deriv()(t) / t[0], 1e-12)
    beta = t[0] / t
    step = beta[:-1] - beta[1:]
    mu, s = step * (mean[:-1] - mean[1:]), step * np.sqrt(variance[:-1] + variance[1:])
    rate: Floats = ndtr(mu / s) + np.exp(mu + s**2 / 2 + log_ndtr(-s - mu / s))
    return rate
