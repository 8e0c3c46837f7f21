"""Energies of frames as they are read, for a training that learns from them, too."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from boltzray.molecules.batched.energy import BatchedEnergy
from boltzray.molecules.energy import EnergyBatch, OpenMMEnergy, only_openmm
from boltzray.molecules.peptide import Peptide

from ..runtime.cpu_affinity import keep_memory

KEPT = 2000  # peptides whose energy function a process keeps


def frame_energies(
    sequences: Sequence[str], frames: Sequence[NDArray[np.float32]], structures: Any, temperature_k: float
) -> NDArray[np.float32]:
    """Energies (n,) of frames (N, 3) in nm, NaN where one cannot be computed. Units: kT.

    `structures`: an object of Ray's store, the PDB text of each sequence, whose order the atoms have.
    """
    texts: Mapping[str, str] = ray.get(structures)
    energies = np.full(len(frames), np.nan, np.float32)
    owners: dict[str, list[int]] = {}
    for row, sequence in enumerate(sequences):
        owners.setdefault(sequence, []).append(row)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for sequence, rows in owners.items():
            found = _energy(texts[sequence], temperature_k)(np.stack([frames[row] for row in rows]), False)
            energies[rows] = np.where(found.ok, found.energy, np.nan)
    finally:
        torch.set_num_threads(threads)
    return energies


@lru_cache(KEPT)
def _energy(pdb: str, temperature_k: float) -> Callable[[NDArray[np.float32], bool], EnergyBatch]:
    keep_memory()
    peptide = Peptide.from_pdb(pdb)
    if only_openmm(peptide):
        return OpenMMEnergy(peptide, temperature_k).evaluate
    return BatchedEnergy(peptide, temperature_k).to("cpu", torch.float32).evaluate_arrays
