"""Chemistry: peptides, force fields, energies, molecular dynamics, observables.

Names are resolved on first use, so importing this needs neither OpenMM nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batched.energy import BatchedEnergy
    from .energy import EnergyBatch, OpenMMEnergy
    from .peptide import Peptide

__all__ = ["BatchedEnergy", "EnergyBatch", "OpenMMEnergy", "Peptide"]

_HOME = {
    "BatchedEnergy": ".batched.energy",
    "EnergyBatch": ".energy",
    "OpenMMEnergy": ".energy",
    "Peptide": ".peptide",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)
