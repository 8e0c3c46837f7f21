"""Systems that the batched energy does not have are refused, by the name of the force, in one line."""

from collections.abc import Callable

import openmm
import pytest
from openmm import app

from boltzray.molecules import BatchedEnergy, Peptide
from boltzray.molecules.batched.tables import read_system
from tests.systems import AMBER, make_system, parsed


def of_kind(system: openmm.System, kind: type) -> openmm.Force:
    return next(force for force in system.getForces() if type(force) is kind)


def box(system: openmm.System) -> None:
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.setNonbondedMethod(openmm.NonbondedForce.PME)


def virtual_site(system: openmm.System) -> None:
    system.addParticle(0.0)
    system.setVirtualSite(system.getNumParticles() - 1, openmm.TwoParticleAverageSite(0, 1, 0.5, 0.5))


def offset(system: openmm.System) -> None:
    force = of_kind(system, openmm.NonbondedForce)
    force.addGlobalParameter("scale", 1.0)
    force.addParticleParameterOffset("scale", 0, 1.0, 0.0, 0.0)


REFUSED: list[tuple[str, Callable[[openmm.System], object], str]] = [
    ("amber14 in vacuum", box, "NonbondedForce is periodic: .* without a box"),
    ("amber14 in vacuum", lambda s: s.addConstraint(0, 1, 0.1), "has constraints: make it with constraints=None"),
    ("amber14 in vacuum", virtual_site, "has virtual sites: use the OpenMM energy"),
    ("amber14 in vacuum", lambda s: s.setParticleMass(3, 0.0), "particles without mass"),
    ("amber14 in vacuum", lambda s: s.addForce(openmm.DrudeForce()), "does not know DrudeForce"),
    ("amber14 in vacuum", lambda s: s.addForce(openmm.CustomExternalForce("x^2")), "not know CustomExternalForce"),
    ("amber14 in vacuum", lambda s: s.addForce(openmm.CustomBondForce("r")), r"not know CustomBondForce \(r\)"),
    ("amber14 in vacuum", lambda s: s.addForce(openmm.CustomTorsionForce("theta")), r"CustomTorsionForce \(theta\)"),
    ("amber14 in vacuum", lambda s: s.addForce(openmm.NonbondedForce()), "a second NonbondedForce"),
    ("amber14 in vacuum", offset, "NonbondedForce has parameter offsets"),
    (
        "amber14 in vacuum",
        lambda s: of_kind(s, openmm.HarmonicAngleForce).setUsesPeriodicBoundaryConditions(True),
        "HarmonicAngleForce is periodic",
    ),
    ("CHARMM36 in vacuum", lambda s: s.addForce(openmm.CMAPTorsionForce()), "a second CMAPTorsionForce"),
    (
        "CHARMM36 in vacuum",
        lambda s: of_kind(s, openmm.CustomNonbondedForce).setEnergyFunction("acoef(type1, type2)/r^9"),
        r"not know LennardJones \(acoef\(type1, type2\)/r\^9\)",
    ),
    (
        "CHARMM36 in vacuum",
        lambda s: of_kind(s, openmm.CustomNonbondedForce).addInteractionGroup([0], [1]),
        "not know LennardJones",
    ),
    (
        "CHARMM36 in vacuum",
        lambda s: of_kind(s, openmm.CustomBondForce).setEnergyFunction("4*epsilon*((sigma/r)^12-(sigma/r)^5)"),
        "not know LennardJones14",
    ),
    (
        "CHARMM36, cutoff, switched",
        lambda s: of_kind(s, openmm.CustomNonbondedForce).setCutoffDistance(1.0),
        "LennardJones and NonbondedForce differ in cutoff or excluded pairs",
    ),
    (
        "CHARMM36, cutoff, switched",
        lambda s: of_kind(s, openmm.CustomNonbondedForce).addExclusion(0, s.getNumParticles() - 1),
        "LennardJones and NonbondedForce differ in cutoff or excluded pairs",
    ),
    (
        "CHARMM36, cutoff, switched",
        lambda s: of_kind(s, openmm.CustomBondForce).addBond(0, s.getNumParticles() - 1, [0.3, 0.1]),
        "LennardJones14 acts on atoms 0 and .* which have a cutoff",
    ),
    (
        "amber14, gbn2",
        lambda s: of_kind(s, openmm.CustomGBForce).addEnergyTerm("charge", 0),
        "CustomGBForce is none of HCT, OBC1, OBC2, GBn, GBn2",
    ),
    (
        "amber14, gbn2, salt, cutoff",
        lambda s: of_kind(s, openmm.CustomGBForce).setCutoffDistance(1.0),
        "CustomGBForce is none of HCT, OBC1, OBC2, GBn, GBn2",
    ),
    ("amber14, gbn2", lambda s: s.addForce(openmm.GBSAOBCForce()), "a second GBSAOBCForce"),
]


@pytest.mark.parametrize(("name", "change", "message"), REFUSED)
def test_others_are_refused_by_name(name: str, change: Callable[[openmm.System], object], message: str) -> None:
    system, _ = make_system(name)
    read_system(system)
    change(system)
    with pytest.raises(ValueError, match=message) as error:
        read_system(system)
    assert "\n" not in str(error.value)


def test_files_whose_forces_are_unknown_are_refused_by_name() -> None:
    peptide = Peptide.from_sequence("AG")
    amoeba = app.ForceField("amoeba2018.xml").createSystem(peptide.topology, constraints=None)
    with pytest.raises(ValueError, match="does not know Amoeba"):
        read_system(amoeba)
    lcpo = parsed(AMBER, "implicit/obc2.xml").createSystem(peptide.topology, constraints=None, sasaMethod="LCPO")
    with pytest.raises(ValueError, match="does not know LCPOForce"):
        read_system(lcpo)
    with pytest.raises(ValueError, match="has no forces"):
        read_system(openmm.System())
    with pytest.raises(ValueError, match="temperature_k=-1"):
        BatchedEnergy.of_system(amoeba, -1)
