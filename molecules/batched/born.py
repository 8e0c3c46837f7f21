"""Generalised Born forces of an OpenMM System read into arrays: those of its `implicit/*.xml`, and GBSAOBCForce."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import openmm

from .expressions import COULOMB, Tables, numbers, plain
from .pair_tables import cutoff_of, discrete_function

_Array = npt.NDArray[np.float64]

# Expressions as OpenMM's files write them; {n} are numbers that the tables take over.
_DESCREENING = (
    "select(step(r+sr2-or1), 0.5*(1/L-1/U+0.25*(r-sr2^2/r)*(1/(U^2)-1/(L^2))+0.5*log(L/U)/r), 0);"
    "U=r+sr2;L=max(or1, D);D=abs(r-sr2)"
)
_NECK = (
    "Ivdw+neckScale*Ineck;"
    "Ineck=step(radius1+radius2+neckCut-r)*getm0(radindex1,radindex2)/(1+100*(r-getd0(radindex1,radindex2))^2+"
    "0.3*1000000*(r-getd0(radindex1,radindex2))^6);"
    f"Ivdw={_DESCREENING};radius1=or1+offset; radius2=or2+offset"
)
_RADIUS = "1/(1/or-tanh({series})/radius);psi=I*or; radius=or+offset"


class _Model(NamedTuple):
    """Parameters of a particle, and expressions of the pair sum and of the Born radius."""

    parameters: tuple[str, ...]
    values: tuple[str, str]


_PLAIN, _INDEX = ("charge", "or", "sr"), ("radindex",)
_SERIES = ("alpha", "beta", "gamma")
_MODELS = (
    _Model(_PLAIN, (_DESCREENING, "1/(1/or-I)")),  # HCT
    _Model(_PLAIN, (_DESCREENING, _RADIUS.replace("{series}", "{alpha}*psi+{gamma}*psi^3"))),  # OBC1
    _Model(_PLAIN, (_DESCREENING, _RADIUS.replace("{series}", "psi-{beta}*psi^2+{gamma}*psi^3"))),  # OBC2
    _Model(_PLAIN + _INDEX, (_NECK, _RADIUS.replace("{series}", "{alpha}*psi-{beta}*psi^2+{gamma}*psi^3"))),  # GBn
    _Model(_PLAIN + _SERIES + _INDEX, (_NECK, _RADIUS.replace("{series}", "alpha*psi-beta*psi^2+gamma*psi^3"))),  # GBn2
)
_SELF = "-0.5*{coulomb}*(1/soluteDielectric-1/solventDielectric)*charge^2/B"
_SURFACE = "{surface}*(radius+{probe})^2*(radius/B)^6; radius=or+offset"
_PAIR = (
    "-{coulomb}*(1/soluteDielectric-1/solventDielectric)*charge1*charge2*(1/f-{shift});"
    "f=sqrt(r^2+B1*B2*exp(-r^2/(4*B1*B2)))"
)


def custom_gb(force: openmm.CustomGBForce) -> Tables:
    """HCT, OBC1, OBC2, GBn, GBn2 as OpenMM spells them: each expression is compared with the one implemented.

    Raises: ValueError if one of them is another.
    """
    single, no_exclusions = force.SingleParticle, force.ParticlePairNoExclusions
    names = tuple(force.getPerParticleParameterName(i) for i in range(force.getNumPerParticleParameters()))
    values = [force.getComputedValueParameters(i) for i in range(force.getNumComputedValues())]
    terms = [force.getEnergyTermParameters(i) for i in range(force.getNumEnergyTerms())]
    functions = {force.getTabulatedFunctionName(i): i for i in range(force.getNumTabulatedFunctions())}
    cutoff, shift = cutoff_of(force), 1 / cutoff_of(force)
    with_surface = len(terms) == 3
    order = [single, single, no_exclusions] if with_surface else [single, no_exclusions]
    known = (
        not (force.getNumGlobalParameters() or force.getNumExclusions())
        and [(v[0], v[2]) for v in values] == [("I", no_exclusions), ("B", single)]
        and [t[1] for t in terms] == order
    )
    texts = [t[0] for t in terms] + [v[1] for v in values]
    found: dict[str, float] | None = None
    model = _MODELS[0]
    for model in _MODELS if known else ():
        tables = {"getd0", "getm0"} if "radindex" in names else set()
        if names == model.parameters and functions.keys() == tables:
            # Energies first: where a number is written twice, theirs are the digits that are taken.
            found = _found([*_energies(with_surface, cutoff), *model.values], texts)
        if found is not None:
            break
    if found is None or not np.isclose(found.setdefault("shift", shift), shift):
        raise ValueError("the CustomGBForce is none of HCT, OBC1, OBC2, GBn, GBn2: use the OpenMM energy")
    n = force.getNumParticles()
    columns = dict(
        zip(names, np.array([force.getParticleParameters(i) for i in range(n)]).reshape(n, -1).T, strict=True)
    )
    result = _born(np.array([columns[name] for name in _PLAIN]), found, cutoff)
    if "tanh" in model.values[1]:
        series = [found.get(name, default) for name, default in (("alpha", 1.0), ("beta", 0.0), ("gamma", 0.0))]
        result["born_constants"] = np.array([*series, 0.0])
    if "alpha" in columns:
        result["born_series"] = np.stack([columns[name] for name in _SERIES], 1)
    if "radindex" in columns:
        index, radius = columns["radindex"].astype(int), columns["or"] + found["offset"]
        place, height = (
            discrete_function(force.getTabulatedFunction(functions[name]))[np.ix_(index, index)]
            for name in ("getd0", "getm0")
        )
        result["neck_place"], result["neck_height"] = place, found["neckScale"] * height
        result["neck_reach"] = radius[:, None] + radius + found["neckCut"]
    return result


def _energies(with_surface: bool, cutoff: float) -> list[str]:
    pair = _PAIR if cutoff < np.inf else _PAIR.replace("*(1/f-{shift})", "/f")
    return [_SELF, _SURFACE, pair] if with_surface else [_SELF, pair]


def _found(templates: list[str], texts: list[str]) -> dict[str, float] | None:
    """Numbers of the model without salt, or of the one with it (κ > 0)."""
    found = numbers(templates, texts)
    if found is not None:
        return found if found.get("kappa", 0.0) == 0 else None
    salt = [
        template.replace("1/solventDielectric", f"exp(-kappa*{'f' if 'f=sqrt' in template else 'B'})/solventDielectric")
        for template in templates
    ]
    found = numbers(salt, texts)
    return found if found is not None and found.get("kappa", 0.0) > 0 else None


def gbsa_obc(force: openmm.GBSAOBCForce) -> Tables:
    """OBC2, whose constants OpenMM has in its code."""
    found = {
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
    tables = _born(np.array([charge, own, scale * own]), found, cutoff_of(force))
    return tables | {"born_constants": np.array([1.0, 0.8, 4.85, 1.0])}


def _born(particles: _Array, found: dict[str, float], cutoff: float) -> Tables:
    charge, own, scaled = particles
    charges = np.outer(charge, charge)
    kappa = found.get("kappa", 0.0)
    inside, outside = 1 / found["soluteDielectric"], 1 / found["solventDielectric"]
    product = -found["coulomb"] * (inside - outside if kappa == 0 else inside) * charges
    cutoffs = np.full(product.shape, cutoff**2)
    np.fill_diagonal(cutoffs, 0.0)
    radius = own + found["offset"]
    tables: Tables = {
        "born_own": own,
        "born_scaled": scaled,
        "born_radius": radius,
        "born_product": product,
        "born_shift": product / cutoff,
        "born_cutoff2": cutoffs,
        "born_surface": found.get("surface", 0.0) * (radius + found.get("probe", 0.0)) ** 2,
    }
    if kappa > 0:
        ions = found["coulomb"] * outside * charges
        tables |= {"born_kappa": np.array(kappa), "born_ions": ions, "born_ions_shift": ions / cutoff}
    return tables
