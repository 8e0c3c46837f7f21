"""Energies of frames as they are read, for a training that learns from them, too."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from boltzray.molecules.batched.energy import BatchedEnergy
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
            x = torch.from_numpy(np.stack([frames[row] for row in rows]))
            found = _energy(texts[sequence], temperature_k).evaluate(x, gradient=False)
            energies[rows] = torch.where(found.ok, found.energy, torch.nan).numpy()
    finally:
        torch.set_num_threads(threads)
    return energies


@lru_cache(KEPT)
def _energy(pdb: str, temperature_k: float) -> BatchedEnergy:
    keep_memory()
    return BatchedEnergy(Peptide.from_pdb(pdb), temperature_k).to("cpu", torch.float32)
