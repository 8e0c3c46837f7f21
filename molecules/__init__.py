"""Chemistry: peptides, force fields, energies, molecular dynamics, observables.

Names are resolved on first use, so `import molecules` needs neither OpenMM nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from molecules.batched_energy import BatchedEnergy
    from molecules.energy import EnergyBatch, OpenMMEnergy
    from molecules.peptide import Peptide

__all__ = ["BatchedEnergy", "EnergyBatch", "OpenMMEnergy", "Peptide"]

_HOME = {
    "BatchedEnergy": "molecules.batched_energy",
    "EnergyBatch": "molecules.energy",
    "OpenMMEnergy": "molecules.energy",
    "Peptide": "molecules.peptide",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'molecules' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
