"""Free energies between two targets of one peptide: two temperatures, force fields, or flows that sampled one.

It is the configurational one, F/kT = −ln ∫ exp(−U/kT) dr with the centre of mass held, in units of nm; momenta add what
masses and temperature say. Of two temperatures only the difference of F/kT has a meaning, not that of F.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boltzray.molecules.constants import KB
from boltzray.molecules.ensemble import Ensemble
from boltzray.samplers.bennett import bennett
from boltzray.samplers.configurational import configurational_log_z
from boltzray.samplers.weighted_average import QUANTILE_95, Average, weighted_log_ratio

from ..evaluation.reference import energies_of
from .sources import SampleFolder, same_molecule

MAX_SMC_ERROR = 0.5  # of log Z: near 1 its own error is not known


def free_energy_rows(first: SampleFolder, second: SampleFolder) -> list[dict[str, Any]]:
    """F(second) − F(first) by each way that there is, one row each.

    log Z of each sampler that both have, and the Bennett acceptance ratio of their final ensembles.
    Raises: ValueError for two peptides.
    """
    same_molecule(second.peptide, first.peptide, str(second.path))
    found = [*_by_log_z(first, second), ("Bennett acceptance ratio", _by_bennett(first, second))]
    return [_row(method, average, first, second) for method, average in found]


def _row(method: str, found: Average, first: SampleFolder, second: SampleFolder) -> dict[str, Any]:
    row: dict[str, Any] = {"method": method, "difference_of_F_over_kT": found.value, "error": found.error}
    row |= {"low": found.low, "high": found.high}
    if first.temperature_k == second.temperature_k:
        kt = KB * first.temperature_k
        row |= {"difference_kJ_per_mol": kt * found.value, "error_kJ_per_mol": kt * found.error}
    return row | {"k_hat": found.k_hat, "usable": found.usable, "reason": found.reason}


def _by_log_z(first: SampleFolder, second: SampleFolder) -> Iterator[tuple[str, Average]]:
    of_first, of_second = ({e.name: e for e in folder.ensembles} for folder in (first, second))
    for name in of_first:
        if name in of_second:
            a, b = _minus_log_z(first, of_first[name]), _minus_log_z(second, of_second[name])
            error = math.hypot(a.error, b.error)
            value = b.value - a.value
            low = value - math.hypot(b.value - b.low, a.high - a.value)
            high = value + math.hypot(b.high - b.value, a.value - a.low)
            shapes = [x.k_hat for x in (a, b) if x.k_hat is not None]
            reason = a.reason or b.reason
            n = min(a.n_effective, b.n_effective)
            yield f"log Z, {name}", Average(value, error, low, high, max(shapes, default=None), n, not reason, reason)


def _minus_log_z(folder: SampleFolder, ensemble: Ensemble) -> Average:
    """F/kT of one ensemble. Of independent draws its interval is that of their mean weight."""
    constant = configurational_log_z(0.0, folder.peptide.n_atoms, folder.scale_nm, folder.temperature_ratio, folder.com)
    log_z = ensemble.diagnostics["log_z"]
    if ensemble.steps is not None:
        error = ensemble.diagnostics["log_z_error"]
        reason = "" if error < MAX_SMC_ERROR else f"log Z of {ensemble.name} has an error of {error:.2f}: unknown"
        reach = QUANTILE_95 * error
        n = ensemble.diagnostics.get("n_roots", math.nan)
        value = -log_z - constant
        return Average(value, error, value - reach, value + reach, None, n, not reason, reason)
    w = np.exp(ensemble.log_weights - ensemble.log_weights.max())
    found = weighted_log_ratio(w, np.ones(len(w)))
    value = -log_z - constant
    return found._replace(value=value, low=value - (found.high - found.value), high=value + (found.value - found.low))


def _by_bennett(first: SampleFolder, second: SampleFolder) -> Average:
    work, weights, effective = [], [], []
    for folder, other in ((first, second), (second, first)):
        ensemble = folder.ensembles[-1]
        alive = np.isfinite(ensemble.log_weights) & np.isfinite(ensemble.energy_kT)
        own = ensemble.energy_kT[alive]
        there = _energies_in(other, folder, ensemble, alive)
        sign = 1 if folder is first else -1
        work.append(sign * (there - own))
        weights.append(ensemble.log_weights[alive])
        effective.append(ensemble.independent_draws)
    return bennett(work[0], work[1], weights[0], weights[1], effective=(effective[0], effective[1]))


def _energies_in(
    other: SampleFolder, folder: SampleFolder, ensemble: Ensemble, alive: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Energies of draws of a folder in kT of another target, +inf where it has none."""
    if other.forcefield == folder.forcefield:
        scaled: NDArray[np.float64] = ensemble.energy_kT[alive] * (folder.temperature_k / other.temperature_k)
        return scaled
    order = same_molecule(folder.peptide, other.peptide, str(folder.path))
    positions = ensemble.positions_nm[alive][:, order]
    batch = energies_of(other.peptide, positions, other.temperature_k, other.forcefield)
    return np.where(batch.ok, batch.energy, np.inf)
