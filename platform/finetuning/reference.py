"""Reference MD of the peptide, which a finetuned flow is compared with, and may learn from."""

import numpy as np

from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.reference_match import in_order_of
from boltzray.molecules.references import conditions, find_pdb, load_reference

from ..evaluation.reference import energies_of, find_comparable
from ..runtime.config import data_folder
from ..runtime.progress import say
from .config import FinetuneJob

REFERENCE_FRAMES = 2_000  # for the rounds; the report of the final draw uses more


def reference_energies(job: FinetuneJob, peptide: Peptide) -> np.ndarray | None:
    """Energies (T,) in kT of frames of reference MD that count the same, if there is any; not part of the budget."""
    found = find_comparable(peptide, data_folder(job.data_dir), job.temperature_k).trajectory
    if found is None:
        return None
    energy = energies_of(peptide, found.equally_weighted(REFERENCE_FRAMES).positions_nm, job.temperature_k)
    return energy.energy[energy.ok]


def real_frames(job: FinetuneJob, peptide: Peptide) -> np.ndarray | None:
    """Conformations (T, N, 3) in nm to learn from, if the objective wants any, in the order of the peptide's atoms.

    Those of a file with weights are resampled, as many as it has.
    A file that does not name its atoms is in the order of the PDB file of its data folder, or else of the peptide.
    Raises: ValueError for those of another molecule, or in another order.
    """
    if not job.objective.real_data:
        return None
    path = data_folder(job.objective.real_data)
    if not path.is_file():
        raise ValueError(f"no file at {path}: give objective.real_data= an .npz with positions (T, N, 3) in nm")
    stored = load_reference(path)
    layout = path.parents[3] if len(path.parents) > 3 and path.stem.endswith("_subsampled") else None
    pdb = find_pdb(layout, peptide.sequence) if layout and peptide.vocabulary == 1 and not stored.atoms else None
    try:
        matched = in_order_of(peptide, stored, Peptide.from_pdb(pdb) if pdb else None)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; give frames of {peptide.sequence} as objective.real_data") from None
    if stored.atoms and not stored.is_at(DEFAULT_FORCEFIELD, job.temperature_k):
        wanted = conditions(DEFAULT_FORCEFIELD, job.temperature_k)
        say(f"note: objective.real_data is in {stored.conditions}, the flow learns of {wanted}")
    finite = matched.at(np.flatnonzero(np.isfinite(matched.positions_nm).all((1, 2))))
    return finite.equally_weighted(len(finite.positions_nm)).positions_nm
