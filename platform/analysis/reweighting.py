"""Weights of an ensemble in another force field than the one it was sampled in.

exp(−(u' − u)) times each weight, in kT at the same temperature; and the free energy between the two, −ln of its mean
(Zwanzig 1954). What the first never visits, no weight brings back: ESS and k̂ say how far it carries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.forcefield import FORCEFIELDS, forcefield_of, read_system_xml
from boltzray.molecules.own_molecule import check_system, own_system, parameter_files
from boltzray.molecules.peptide import MARK, Peptide
from boltzray.samplers.importance_weights import psis, reliable_k_hat
from boltzray.samplers.weighted_average import Average, weighted_average

from ..runtime.config import results_home
from ..sampling.energy_actors import evaluator


@dataclass(frozen=True, kw_only=True, eq=False)
class Reweighted:
    """An ensemble with the weights of another force field.

    `ess`: the fraction of conformations that it is worth, and `ess_before`; `difference`: F(new) − F(old) in kT.
    """

    ensemble: Ensemble
    ess_before: float
    ess: float
    k_hat: float | None
    difference: Average

    @property
    def is_doubtful(self) -> bool:
        """Return whether few conformations decide every average."""
        return self.k_hat is None or self.k_hat > reliable_k_hat(len(self.ensemble.log_weights))

    def __str__(self) -> str:
        shape = "" if self.k_hat is None else f", k̂ {self.k_hat:.2f}"
        doubt = " ! too different to be reweighted" if self.is_doubtful else ""
        d = self.difference
        return (
            f"ESS {100 * self.ess_before:.3g} % → {100 * self.ess:.3g} % of {len(self.ensemble.log_weights)}{shape}, "
            f"Δ(F/kT) = {d.value:.3f} [{d.low:.3f}, {d.high:.3f}]{doubt}"
        )


def other_energy(peptide: Peptide, given: Sequence[str]) -> tuple[Peptide, str]:
    """The molecule with another energy, and the name of that.

    `given`: the name of a force field, or a System, a molecule file, or parameter files of OpenMM.
    Raises: ValueError for what does not belong to the molecule.
    """
    if len(given) == 1 and given[0] in FORCEFIELDS:
        return peptide, given[0]
    files = parameter_files(given, results_home())
    if len(files) == 1 and (path := Path(files[0])).is_file() and MARK in path.read_bytes():
        xml = Peptide.from_pdb(path).system_xml
        check_system(read_system_xml(xml, path.name), peptide.topology, path.name)
    else:
        xml = own_system(peptide.topology, files)
    changed = replace(peptide, system_xml=xml)
    return changed, forcefield_of(changed)


def reweight(ensemble: Ensemble, peptide: Peptide, temperature_k: float, given: Sequence[str]) -> Reweighted:
    """Weigh an ensemble of `peptide`, in its order of atoms, in another force field: see `other_energy`."""
    other, name = other_energy(peptide, given)
    # The standard order for force fields by name, as samples have: a System of the user's has the order of the file.
    order = np.arange(peptide.n_atoms) if other.own_forcefield else peptide.iupac_order
    named = other if other.own_forcefield else other.iupac()
    evaluate, _ = evaluator(named, temperature_k, forcefield=name)
    found = evaluate(ensemble.positions_nm[:, order], False)
    alive = np.isfinite(ensemble.log_weights) & np.isfinite(ensemble.energy_kT)
    if not (alive & found.ok).any():
        raise ValueError(f"no conformation has a finite energy in {name}: is it a force field of this molecule?")
    work = np.where(alive & found.ok, found.energy - np.where(alive, ensemble.energy_kT, 0.0), np.inf)
    log_weights = np.where(np.isfinite(work), ensemble.log_weights - np.where(np.isfinite(work), work, 0.0), -np.inf)
    new = replace(
        ensemble,
        name=f"{ensemble.name} → {name}",
        log_weights=log_weights,
        energy_kT=np.where(found.ok, found.energy, np.inf),
        diagnostics={k: v for k, v in ensemble.diagnostics.items() if k == "n_roots"},
        metrics={},
        steps=None,
    )
    return Reweighted(
        ensemble=new,
        ess_before=_kish(ensemble),
        ess=_kish(new),
        k_hat=psis(log_weights)[1],
        difference=_free_energy(work, ensemble),
    )


def _free_energy(work: np.ndarray, ensemble: Ensemble) -> Average:
    """−ln ⟨exp(−work)⟩, with the interval of the mean."""
    least = float(work.min())
    mean = weighted_average(np.exp(-(work - least)), ensemble.log_weights, effective=ensemble.independent_draws)
    value, floor = least - float(np.log(mean.value)), np.finfo(float).tiny
    return mean._replace(
        value=value,
        error=mean.error / mean.value,
        low=least - float(np.log(mean.high)),
        high=least - float(np.log(max(mean.low, floor))),
    )


def _kish(ensemble: Ensemble) -> float:
    return float(1.0 / np.square(ensemble.weights).sum() / len(ensemble.weights))
