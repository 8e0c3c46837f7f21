"""Reference MD of the peptide, which a finetuned flow is compared with, and may learn from."""

import numpy as np

from boltzray.models.flow import Flow
from boltzray.molecules import zmatrix
from boltzray.molecules.constants import PUBLISHED_K
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.references import find_reference, load_reference
from boltzray.molecules.subsample import weighted_subsample

from ..runtime.config import data_folder
from ..sampling.energy_actors import EnergyConfig, batched
from .config import FinetuneJob

REFERENCE_FRAMES = 2_000  # for the rounds; the report of the final draw uses more


def reference_energies(job: FinetuneJob, peptide: Peptide) -> np.ndarray | None:
    """Energies (T,) in kT of reference MD, if there is any; they are not part of the budget."""
    path = find_reference(data_folder(job.data_dir), peptide.sequence)
    if path is None or job.temperature_k != PUBLISHED_K:
        return None
    positions, _ = load_reference(path)
    positions = positions[weighted_subsample(np.ones(len(positions)), REFERENCE_FRAMES)[0]]
    energy = batched(peptide, PUBLISHED_K, EnergyConfig()).evaluate_arrays(positions, False)
    return energy.energy[energy.ok]


def real_frames(job: FinetuneJob, flow: Flow, peptide: Peptide) -> np.ndarray | None:
    """Conformations (T, N, 3) in nm to learn from, if the objective wants any.

    Raises: ValueError for those of another molecule.
    """
    if not job.objective.real_data:
        return None
    path = data_folder(job.objective.real_data)
    if not path.is_file():
        raise ValueError(f"no file at {path}: give objective.real_data= an .npz with positions (T, N, 3) in nm")
    frames, _ = load_reference(path)
    if frames.shape[1] != peptide.n_atoms:
        raise ValueError(
            f"{path} has {frames.shape[1]} atoms a frame, {peptide.sequence} has {peptide.n_atoms}: "
            "give frames of that peptide as objective.real_data"
        )
    frames = frames[np.isfinite(frames).all((1, 2))]
    return same_hydrogens(peptide, frames) if flow.config.coordinates == "internal" else frames


def same_hydrogens(peptide: Peptide, frames: np.ndarray) -> np.ndarray:
    """Frames of MD in which equivalent hydrogens have the handedness that they have in the peptide.

    Many files number them by chance, 2 and 3 or 3 and 2; a flow of internal coordinates has learned one of the two.
    """
    names = [(atom.residue.index, atom.name) for atom in peptide.topology.atoms()]
    z_matrix, permutation = peptide.internal["z_matrix"], peptide.internal["hydrogen_permutation"]
    found = zmatrix.hydrogen_permutation(names, z_matrix, zmatrix.torsions(frames[0], z_matrix))
    return frames[:, found][:, permutation]
