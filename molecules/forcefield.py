"""The force fields of the published data sets, by name."""

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


def check_forcefield(name: str) -> str:
    """The name itself, or a ValueError that lists the known ones."""
    if name not in FORCEFIELDS:
        raise ValueError(f"unknown force field {name!r}: use one of {', '.join(FORCEFIELDS)}")
    return name


@cache
def _parsed(name: str) -> app.ForceField:
    return app.ForceField(*FORCEFIELDS[name].files)  # parsing takes 0.3 s


def create_system(
    peptide: "Peptide", forcefield: str = DEFAULT_FORCEFIELD, hydrogen_mass_da: float | None = None
) -> openmm.System:
    """OpenMM System of a peptide: no constraints, implicit solvent.

    `hydrogen_mass_da`: of each hydrogen, taken from the atom that it is bonded to (Hopkins et al. 2015).

    Raises: ValueError for an unknown force field, or one that has no parameters for the peptide.
    """
    cutoff_nm = FORCEFIELDS[check_forcefield(forcefield)].cutoff_nm
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
