"""Non-bonded forces of an OpenMM System read into tables by pair: NonbondedForce, and CHARMM's Lennard-Jones."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import openmm
from openmm import unit

from .expressions import COULOMB, Tables, numbers, plain

_Array = npt.NDArray[np.float64]
_Pair = tuple[int, int]

# Lennard-Jones by type of atom (NBFIX), as the files of force fields have it, and as PSF and prmtop files are read.
_BY_TYPE = "acoef(type1, type2)/r^12 - bcoef(type1, type2)/r^6"
_BY_ROOT = "(a/r6)^2-b/r6; r6=r^6; a=acoef(type1, type2); b=bcoef(type1, type2)"
_ONE_TO_FOUR = "{factor}*epsilon*((sigma/r)^12-(sigma/r)^6)"


def cutoff_of(
    force: openmm.NonbondedForce | openmm.CustomNonbondedForce | openmm.CustomGBForce | openmm.GBSAOBCForce,
) -> float:
    """Cutoff in nm, inf for none.

    Raises: ValueError if the force is periodic.
    """
    if force.getNonbondedMethod() == force.NoCutoff:
        return float(np.inf)
    if force.getNonbondedMethod() != force.CutoffNonPeriodic:
        raise ValueError(
            f"{force.getName()} is periodic: the batched energy has NoCutoff and CutoffNonPeriodic, without a box"
        )
    return cast(float, force.getCutoffDistance().value_in_unit(unit.nanometer))


def discrete_function(function: openmm.Discrete2DFunction) -> _Array:
    """Values (n, m) of a tabulated function f(i, j)."""
    n, m, values = function.getFunctionParameters()
    return np.array(values, float).reshape(m, n).T


class _Part:
    """Tables of one force, symmetric (N, N): Lennard-Jones, the cutoff (inf for pairs without)."""

    def __init__(self, force: openmm.NonbondedForce | openmm.CustomNonbondedForce, n: int) -> None:
        self.name, self.cutoff = force.getName(), cutoff_of(force)
        # From where on the Lennard-Jones energy is switched off; inf for never.
        switched = self.cutoff < np.inf and force.getUseSwitchingFunction()
        self.switch = plain([force.getSwitchingDistance()])[0] if switched else np.inf
        self.cutoff2 = np.full((n, n), self.cutoff**2)
        self.lj12, self.lj6 = np.zeros((n, n)), np.zeros((n, n))
        self.apart: set[_Pair] = set()  # excluded pairs, and those with parameters of their own


class _Charged(_Part):
    """NonbondedForce: its charges, too. Exceptions have no cutoff and no reaction field."""

    def __init__(self, force: openmm.NonbondedForce) -> None:
        n = force.getNumParticles()
        super().__init__(force, n)
        if force.getNumParticleParameterOffsets() or force.getNumExceptionParameterOffsets():
            raise ValueError(f"{self.name} has parameter offsets: use the OpenMM energy")
        dielectric = force.getReactionFieldDielectric()
        shift = 1 / self.cutoff * (3 * dielectric / (2 * dielectric + 1))
        field = (dielectric - 1) / (2 * dielectric + 1) / self.cutoff**3
        charge, sigma, epsilon = np.array([plain(force.getParticleParameters(i)) for i in range(n)]).T
        product = COULOMB * np.outer(charge, charge)
        sigma = (sigma[:, None] + sigma) / 2
        epsilon = np.sqrt(np.outer(epsilon, epsilon))
        self.has_lj = bool(epsilon.any())
        shifts, fields = np.full((n, n), shift), np.full((n, n), field)
        for i in range(force.getNumExceptions()):
            a, b, *parameters = force.getExceptionParameters(i)
            self.apart.add((min(a, b), max(a, b)))
            for pair in ((a, b), (b, a)):
                product[pair], sigma[pair], epsilon[pair] = plain(parameters)
                product[pair] *= COULOMB
                shifts[pair], fields[pair], self.cutoff2[pair] = 0.0, 0.0, np.inf
        self.product, self.shift, self.field = product, product * shifts, product * fields
        self.lj12, self.lj6 = 4 * epsilon * sigma**12, 4 * epsilon * sigma**6


class _ByType(_Part):
    """CustomNonbondedForce of Lennard-Jones by type."""

    def __init__(self, force: openmm.CustomNonbondedForce) -> None:
        super().__init__(force, force.getNumParticles())
        functions = {force.getTabulatedFunctionName(i): i for i in range(force.getNumTabulatedFunctions())}
        names = [force.getPerParticleParameterName(i) for i in range(force.getNumPerParticleParameters())]
        extras = force.getNumGlobalParameters(), force.getNumComputedValues(), force.getNumInteractionGroups()
        expression = force.getEnergyFunction()
        squared = numbers([_BY_ROOT], [expression]) == {}
        plainly = numbers([_BY_TYPE], [expression]) == {}
        if not (squared or plainly) or any(extras) or names != ["type"] or functions.keys() != {"acoef", "bcoef"}:
            raise ValueError(f"the batched energy does not know {self.name} ({expression}): use the OpenMM energy")
        index = np.array([force.getParticleParameters(i)[0] for i in range(force.getNumParticles())]).astype(int)
        a, b = (
            discrete_function(force.getTabulatedFunction(functions[name]))[np.ix_(index, index)]
            for name in ("acoef", "bcoef")
        )
        a = a * a if squared else a
        if not (np.array_equal(a, a.T) and np.array_equal(b, b.T)):
            raise ValueError(f"{self.name} depends on the order of two atoms: use the OpenMM energy")
        for i in range(force.getNumExclusions()):
            pair = sorted(force.getExclusionParticles(i))
            self.apart.add((pair[0], pair[1]))
            for p in (tuple(pair), tuple(pair[::-1])):
                a[p], b[p], self.cutoff2[p] = 0.0, 0.0, np.inf
        self.lj12, self.lj6 = a, b


def pair_tables(
    charged: openmm.NonbondedForce | None,
    by_type: openmm.CustomNonbondedForce | None,
    bonds: Sequence[openmm.CustomBondForce],
    n_atoms: int,
) -> Tables:
    """One table for all: what the forces add to a pair is added here, so that it costs nothing later.

    Raises: ValueError that names the force that is another, or that treats other pairs than NonbondedForce.
    """
    first = None if charged is None else _Charged(charged)
    second = None if by_type is None else _ByType(by_type)
    parts: list[_Part] = [part for part in (first, second) if part is not None]
    if first is not None and second is not None:
        if first.cutoff != second.cutoff or (first.cutoff < np.inf and first.apart != second.apart):
            raise ValueError(
                f"{second.name} and {first.name} differ in cutoff or excluded pairs: use the OpenMM energy"
            )
        if first.has_lj and first.switch != second.switch:
            raise ValueError(f"{second.name} and {first.name} differ in their switching: use the OpenMM energy")
    shape = n_atoms, n_atoms
    cutoff2 = parts[0].cutoff2 if parts else np.full(shape, np.inf)
    lj12 = sum((part.lj12 for part in parts), np.zeros(shape))
    lj6 = sum((part.lj6 for part in parts), np.zeros(shape))
    for force in bonds:
        _add_bonds(force, lj12, lj6, cutoff2)
    tables: Tables = {
        "charge_product": np.zeros(shape) if first is None else first.product,
        "charge_shift": np.zeros(shape) if first is None else first.shift,
        "lj12": lj12,
        "lj6": lj6,
    }
    if first is not None and first.field.any():
        tables["charge_field"] = first.field
    if parts and parts[-1].switch < np.inf:
        tables["switch_start"] = np.where(cutoff2 < np.inf, parts[-1].switch, np.inf)
        tables["switch_rate"] = np.array(1 / (parts[-1].cutoff - parts[-1].switch))
    np.fill_diagonal(cutoff2, 0.0)
    return tables | {"pair_cutoff2": cutoff2}


def _add_bonds(force: openmm.CustomBondForce, lj12: _Array, lj6: _Array, cutoff2: _Array) -> None:
    """Lennard-Jones of atoms three bonds apart; they have to be excluded elsewhere, where there is a cutoff."""
    name, expression = force.getName(), force.getEnergyFunction()
    names = [force.getPerBondParameterName(i) for i in range(force.getNumPerBondParameters())]
    found = numbers([_ONE_TO_FOUR], [expression])
    if found is None or found.keys() != {"factor"} or names != ["sigma", "epsilon"] or force.getNumGlobalParameters():
        raise ValueError(f"the batched energy does not know {name} ({expression}): use the OpenMM energy")
    for i in range(force.getNumBonds()):
        a, b, (sigma, epsilon) = force.getBondParameters(i)
        if cutoff2[a, b] < np.inf:
            raise ValueError(f"{name} acts on atoms {a} and {b}, which have a cutoff: use the OpenMM energy")
        for pair in ((a, b), (b, a)):
            lj12[pair] += found["factor"] * epsilon * sigma**12
            lj6[pair] += found["factor"] * epsilon * sigma**6
