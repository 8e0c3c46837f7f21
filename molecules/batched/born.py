"""Generalised Born forces of an OpenMM System read into arrays: OBC1 as a CustomGBForce, OBC2 as GBSAOBCForce."""

import re

import numpy as np
import numpy.typing as npt
import openmm
from openmm import unit

Tables = dict[str, npt.NDArray[np.generic]]

COULOMB = 138.93545764438198  # kJ nm / mol / e², OpenMM's value

# OBC1 as OpenMM's `implicit/obc1.xml` writes it; {n} are numbers that the tables take over.
_BORN = (
    "select(step(r+sr2-or1), 0.5*(1/L-1/U+0.25*(r-sr2^2/r)*(1/(U^2)-1/(L^2))+0.5*log(L/U)/r), 0);"
    "U=r+sr2;L=max(or1, D);D=abs(r-sr2)",
    "1/(1/or-tanh({alpha}*psi+{gamma}*psi^3)/radius);psi=I*or; radius=or+offset; offset={offset}",
)
_ENERGY = (
    "-0.5*{coulomb}*(1/soluteDielectric-1/solventDielectric)*charge^2/B",
    "{surface}*(radius+{probe})^2*(radius/B)^6; radius=or+offset",
    "-{coulomb}*(1/soluteDielectric-1/solventDielectric)*charge1*charge2*(1/f-{shift});"
    "f=sqrt(r^2+B1*B2*exp(-r^2/(4*B1*B2)))",
)
_ENERGY_PLAIN = (*_ENERGY[:2], _ENERGY[2].replace("*(1/f-{shift})", "/f"))


def plain(quantities: list[unit.Quantity]) -> list[float]:
    """Numbers in OpenMM's units: nm, kJ/mol, rad, e."""
    return [q.value_in_unit_system(unit.md_unit_system) for q in quantities]


def cutoff_and_shift(force: openmm.NonbondedForce | openmm.CustomGBForce, name: str) -> tuple[float, float]:
    """Cutoff in nm (inf for none), and what is subtracted from 1/r inside it."""
    if force.getNonbondedMethod() == force.NoCutoff:
        return np.inf, 0.0
    if force.getNonbondedMethod() != force.CutoffNonPeriodic:
        raise ValueError(f"{name} is periodic: the batched energy has NoCutoff and CutoffNonPeriodic")
    cutoff = force.getCutoffDistance().value_in_unit(unit.nanometer)
    return cutoff, 1 / cutoff


def custom_gb(force: openmm.CustomGBForce) -> Tables:
    """OBC1 as the force field file spells it: each expression is compared with the one implemented."""
    single, no_exclusions = force.SingleParticle, force.ParticlePairNoExclusions
    names = [force.getPerParticleParameterName(i) for i in range(force.getNumPerParticleParameters())]
    values = [force.getComputedValueParameters(i) for i in range(force.getNumComputedValues())]
    terms = [force.getEnergyTermParameters(i) for i in range(force.getNumEnergyTerms())]
    extras = (force.getNumGlobalParameters(), force.getNumTabulatedFunctions(), force.getNumExclusions())
    cutoff, shift = cutoff_and_shift(force, "CustomGBForce")
    known = (
        names == ["charge", "or", "sr"]
        and not any(extras)
        and [(v[0], v[2]) for v in values] == [("I", no_exclusions), ("B", single)]
        and [t[1] for t in terms] == [single, single, no_exclusions]
    )
    energies = _ENERGY if cutoff < np.inf else _ENERGY_PLAIN
    born = _numbers(_BORN, [v[1] for v in values]) if known else {}
    found = _numbers(energies, [t[0] for t in terms]) if born else {}
    same = np.isclose([found.get("shift", shift), found.get("offset", 0)], [shift, born.get("offset", 1)])
    if not same.all() or found.get("kappa", 0.0) != 0:
        raise ValueError("the CustomGBForce is not OBC1 with surface area: use the OpenMM energy")
    n = force.getNumParticles()
    particles = np.array([force.getParticleParameters(i) for i in range(n)]).reshape(n, 3).T
    return _born(particles, born | found, cutoff, beta=0.0, engulfed=0.0)


def _numbers(templates: tuple[str, ...], expressions: list[str]) -> dict[str, float]:
    """The numbers that stand at the {names}, and the constants assigned; empty if one does not match."""
    found: dict[str, float] = {}
    for template, expression in zip(templates, expressions, strict=True):
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[-+.0-9eE]+)", re.escape(template.replace(" ", "")))
        match = re.fullmatch(pattern + r"((;\w+=[-+.0-9eE]+)*)", expression.replace(" ", ""))
        if match is None:
            return {}
        constants = [c.split("=") for c in match.group(match.re.groups - 1).split(";") if c]
        pairs = [(name, float(value)) for name, value in constants + list(match.groupdict().items())]
        if any(not np.isclose(found.setdefault(name, value), value) for name, value in pairs):
            return {}
    return found


def gbsa_obc(force: openmm.GBSAOBCForce) -> Tables:
    """OBC2, whose constants OpenMM has in its code."""
    if force.getNonbondedMethod() != force.NoCutoff:
        raise ValueError("GBSAOBCForce with a cutoff: the batched energy has it without only")
    found = {
        "alpha": 1.0,
        "gamma": 4.85,
        "offset": 0.009,
        "probe": 0.14,
        "coulomb": COULOMB,
        "surface": 4 * np.pi * plain([force.getSurfaceAreaEnergy()])[0],
        "soluteDielectric": force.getSoluteDielectric(),
        "solventDielectric": force.getSolventDielectric(),
    }
    n = force.getNumParticles()
    charge, radius, scale = np.array(
        [[*plain(force.getParticleParameters(i)[:2]), force.getParticleParameters(i)[2]] for i in range(n)]
    ).T
    own = radius - found["offset"]
    return _born(np.array([charge, own, scale * own]), found, np.inf, beta=0.8, engulfed=1.0)


def _born(
    particles: npt.NDArray[np.float64], found: dict[str, float], cutoff: float, beta: float, engulfed: float
) -> Tables:
    charge, own, scaled = particles
    factor = found["coulomb"] * (1 / found["soluteDielectric"] - 1 / found["solventDielectric"])
    product = -factor * np.outer(charge, charge)
    cutoffs = np.full(product.shape, cutoff**2)
    np.fill_diagonal(cutoffs, 0.0)
    radius = own + found["offset"]
    return {
        "born_own": own,
        "born_scaled": scaled,
        "born_radius": radius,
        "born_product": product,
        "born_shift": product / cutoff,
        "born_cutoff2": cutoffs,
        "born_surface": found["surface"] * (radius + found["probe"]) ** 2,
        "born_constants": np.array([found["alpha"], beta, found["gamma"], engulfed]),
    }
