"""The force fields of the published data sets, by name."""

import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import openmm
from openmm import app, unit

if TYPE_CHECKING:
    from .peptide import Peptide


@dataclass(frozen=True, kw_only=True)
class ForceField:
    """OpenMM parameter files and the non-bonded cutoff; `None` means all pairs."""

    files: tuple[str, ...]
    cutoff_nm: float | None


DEFAULT_FORCEFIELD = "amber14-obc1"
FORCEFIELDS = {
    # ManyPeptidesMD, and the uncapped single systems of SBG (Tan et al. 2025, arXiv 2502.18462).
    "amber14-obc1": ForceField(files=("amber14-all.xml", "implicit/obc1.xml"), cutoff_nm=2.0),
    # The capped single systems of SBG: Ace-A-Nme, Ace-AAA-Nme.
    "amber99sbildn-obc": ForceField(files=("amber99sbildn.xml", "amber99_obc.xml"), cutoff_nm=None),
}


OWN = "system-"  # begins the name of the System that a molecule brings with it: `Peptide.own_forcefield`


def check_forcefield(name: str) -> str:
    """The name itself, or a ValueError that lists the known ones."""
    if name not in FORCEFIELDS and not name.startswith(OWN):
        raise ValueError(f"unknown force field {name!r}: use one of {', '.join(FORCEFIELDS)}")
    return name


@cache
def _parsed(name: str) -> app.ForceField:
    return app.ForceField(*FORCEFIELDS[name].files)  # parsing takes 0.3 s


def create_system(
    peptide: "Peptide", forcefield: str = DEFAULT_FORCEFIELD, hydrogen_mass_da: float | None = None
) -> openmm.System:
    """OpenMM System of a peptide: no constraints, implicit solvent; or the one that it brings with it.

    `hydrogen_mass_da`: of each hydrogen, taken from the atom that it is bonded to (Hopkins et al. 2015).

    Raises: ValueError for an unknown force field, or one that has no parameters for the peptide.
    """
    if peptide.own_forcefield:
        return _own_system(peptide, forcefield, hydrogen_mass_da)
    if check_forcefield(forcefield).startswith(OWN):
        raise ValueError(f"{forcefield} is the System of another molecule file: give that as pdb=")
    cutoff_nm = FORCEFIELDS[forcefield].cutoff_nm
    settings = (
        {"nonbondedMethod": app.NoCutoff}
        if cutoff_nm is None
        else {"nonbondedMethod": app.CutoffNonPeriodic, "nonbondedCutoff": cutoff_nm * unit.nanometer}
    )
    try:
        return _parsed(forcefield).createSystem(
            peptide.topology, constraints=None, hydrogenMass=hydrogen_mass_da, **settings
        )
    except (ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"force field {forcefield} has no parameters for {peptide.sequence} ({reason}): use another one"
        ) from error


def forcefield_of(peptide: "Peptide", asked: str = DEFAULT_FORCEFIELD) -> str:
    """Name of the force field of a peptide: of the System that it brings with it, or the one `asked` for."""
    return peptide.own_forcefield or asked


def read_system_xml(xml: str, source: str) -> openmm.System:
    """Deserialise a System.

    One with a PythonForce, as potentials from machine learning have it, holds pickled code, which would run here: that
    is read with BOLTZRAY_TRUST_PYTHON=1 in the environment alone.

    Raises: ValueError for such a one, or another object.
    """
    if "PythonForce" in xml and os.environ.get("BOLTZRAY_TRUST_PYTHON") != "1":
        raise ValueError(
            f"{source} has a PythonForce, whose pickled code would run here: set BOLTZRAY_TRUST_PYTHON=1 if you trust "
            "who made it"
        )
    try:
        system = openmm.XmlSerializer.deserialize(xml)
    except Exception as error:  # OpenMM raises what its C++ does
        reason = " ".join(str(error).split())
        raise ValueError(f"{source} is no serialised OpenMM object ({reason}): write it with XmlSerializer") from error
    if not isinstance(system, openmm.System):
        raise ValueError(f"{source} holds a {type(system).__name__}: give the System, serialised by itself")
    return system


def _own_system(peptide: "Peptide", forcefield: str, hydrogen_mass_da: float | None) -> openmm.System:
    """The System of a molecule. The default force field stands for it, for that is what no choice looks like."""
    if forcefield not in (DEFAULT_FORCEFIELD, peptide.own_forcefield):
        raise ValueError(
            f"{peptide.sequence} brings its own energy with it ({peptide.own_forcefield}), not {forcefield}: leave "
            "forcefield= out, or make the molecule anew with the other one (jobs/fit.py)"
        )
    system = read_system_xml(peptide.system_xml, f"the System of {peptide.sequence}")
    if hydrogen_mass_da is None:
        return system
    for one, other in peptide.topology.bonds():
        hydrogen, heavy = (one, other) if one.element.symbol == "H" else (other, one)
        if hydrogen.element.symbol == "H" and heavy.element.symbol != "H":
            moved = hydrogen_mass_da * unit.dalton - system.getParticleMass(hydrogen.index)
            system.setParticleMass(hydrogen.index, hydrogen_mass_da)
            system.setParticleMass(heavy.index, system.getParticleMass(heavy.index) - moved)
    return system
