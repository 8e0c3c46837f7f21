"""Reference MD of a peptide: found below the data folder, and compared only with what it is a reference of."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from boltzray.molecules.constants import PUBLISHED_K
from boltzray.molecules.convergence import StateEstimate, estimate_states
from boltzray.molecules.energy_batch import EnergyBatch
from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD, OWN, forcefield_of
from boltzray.molecules.independent_runs import split_runs
from boltzray.molecules.metrics import MAX_FRAMES
from boltzray.molecules.observables import Tica, fit_tica, tica_lag
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.reference_match import in_order_of
from boltzray.molecules.reference_record import ReferenceRecord, read_record, record_path
from boltzray.molecules.references import (
    ReferenceTrajectory,
    conditions,
    find_pdb,
    find_references,
    load_reference,
    published_split,
)
from boltzray.molecules.torsion_states import occupied, states_of

from ..report.contents import Reference, number
from ..report.verdict_states import reasons
from ..runtime.config import display_path
from ..runtime.run_folder import sha256
from ..sampling.energy_actors import evaluator


class ReferenceSearch(NamedTuple):
    """Reference MD with atoms in the order of the peptide, or the reason why there is none to compare.

    `path`: its file. `made`: what that says of itself.
    """

    trajectory: ReferenceTrajectory | None
    path: Path | None
    note: str = ""
    made: str = ""


def find_comparable(
    peptide: Peptide, data: Path, temperature_k: float, forcefield: str = DEFAULT_FORCEFIELD
) -> ReferenceSearch:
    """Look for reference MD in this force field and at this temperature, in any split.

    Raises: ValueError for a file that is no reference trajectory.
    """
    forcefield = forcefield_of(peptide, forcefield)
    sequence, wanted = peptide.sequence, conditions(forcefield, temperature_k)
    found = [(path, _loaded(path, data, sequence)) for path in reference_files(data, sequence)]
    if not found:
        command = simulation(sequence, temperature_k, forcefield, display_path(data) if data.is_dir() else "data")
        where = f"in {display_path(data)}" if data.is_dir() else f"(there is no folder {display_path(data)})"
        return ReferenceSearch(None, None, f"no reference MD of {sequence} {where}: make it with {command}")
    path, trajectory = next((f for f in found if f[1].is_at(forcefield, temperature_k)), found[0])
    if not trajectory.is_at(forcefield, temperature_k):
        folder = f"outputs/reference-{temperature_k:g}K-{forcefield}"
        note = (
            f"the samples are in {wanted}, the reference {display_path(path)} is in {trajectory.conditions}: they are "
            f"not compared; for a reference of its own: {simulation(sequence, temperature_k, forcefield, folder)}, "
            f"then jobs/evaluate.py samples=[…] data_dir={folder}"
        )
        return ReferenceSearch(None, path, note)
    pdb = None if trajectory.atoms else find_pdb(data, sequence)
    try:
        matched = in_order_of(peptide, trajectory, Peptide.from_pdb(pdb) if pdb else None)
    except ValueError as error:
        command = simulation(sequence, temperature_k, forcefield, f"outputs/reference-{sequence}")
        note = f"the reference {display_path(path)} is not compared: {error}; give the PDB file that belongs to it as "
        note += f"{display_path(data / 'pdbs' / 'test' / f'{sequence}.pdb')}, or make another: {command}"
        return ReferenceSearch(None, path, note)
    return ReferenceSearch(matched, path, made=_described(trajectory))


def _loaded(path: Path, data: Path, sequence: str) -> ReferenceTrajectory:
    """Load a reference; what earlier versions of jobs/simulate.py did not write into it is in their runs' settings."""
    stored = load_reference(path)
    runs = [] if stored.atoms else [json.loads(p.read_text()) for p in data.glob(f"md/{sequence}_*/run.json")]
    of_runs = {(run["settings"]["forcefield"], run["settings"]["temperature_k"]) for run in runs}
    if len(of_runs) != 1:  # public data; or no telling which of the runs it is of
        return stored
    forcefield, temperature_k = of_runs.pop()
    return replace(stored, forcefield=forcefield, temperature_k=temperature_k)


def reference_files(data: Path, sequence: str) -> list[Path]:
    """Reference trajectories of a peptide, if its name can be that of a file."""
    try:
        return find_references(data, sequence)
    except ValueError:
        return []


def simulation(sequence: str, temperature_k: float, forcefield: str, out: str) -> str:
    """Format the command that makes reference MD."""
    own = forcefield.startswith(OWN)  # of a molecule that no name builds
    what = f"pdb={sequence}/molecule.pdb" if own else f"sequences=[{sequence}]"
    parts = ["python jobs/simulate.py", what, f"split={published_split(sequence) or 'test'}"]
    if temperature_k != PUBLISHED_K:
        parts.append(f"md.temperature_k={temperature_k:g}")
    if forcefield != DEFAULT_FORCEFIELD and not own:
        parts.append(f"md.forcefield={forcefield}")
    return " ".join([*parts, f"out={out}"])


def load_reference_ensemble(
    peptide: Peptide, data: Path, temperature_k: float, forcefield: str = DEFAULT_FORCEFIELD
) -> tuple[Reference | None, dict[str, str], list[str]]:
    """Load reference MD with energies and TICA, if the data folder has it; returns facts and notes for the reader, too.

    Atoms are in the order of the peptide. MD of another molecule, in another force field or at another temperature is
    not a reference: a note says so.
    Raises: ValueError for a file that is no reference trajectory.
    """
    found = find_comparable(peptide, data, temperature_k, forcefield)
    if found.trajectory is None or found.path is None:
        return None, {"not_compared": display_path(found.path)} if found.path else {}, [found.note]
    trajectory, path = found.trajectory, found.path
    total = len(trajectory.positions_nm)
    trajectory = trajectory.at(np.flatnonzero(np.isfinite(trajectory.positions_nm).all(axis=(1, 2))))
    lost = total - len(trajectory.positions_nm)
    notes = [f"{lost} frames of the reference are not finite and were left out."] if lost else []
    tica = trajectory.tica
    if tica is None:
        tica, fitted = _fitted_tica(trajectory, peptide)
        notes.append(f"The reference has no TICA file: it was fitted to {fitted}.")
    record = read_record(path)
    if record and not record.is_of(path):
        record = None
        notes.append(f"{display_path(record_path(path))} is of another trajectory, and is not believed.")
    states = _states(peptide, trajectory, record)
    trajectory = trajectory.subsampled(MAX_FRAMES)
    energy = energies_of(peptide, trajectory.positions_nm, temperature_k, forcefield)
    trajectory = trajectory.at(np.flatnonzero(energy.ok))
    reference = Reference(
        positions_nm=trajectory.positions_nm,
        energy_kT=energy.energy[energy.ok],
        source=display_path(path),
        tica=tica,
        log_weights=trajectory.log_weights,
        run_lengths=trajectory.run_lengths,
        states=states,
        record=record,
    )
    worth = "" if reference.log_weights is None else f", effective {number(reference.effective_frames)}"
    facts = {
        "reference": f"{display_path(path)}, {len(reference.positions_nm)} frames of {total}{worth}",
        "reference_conditions": found.made,
        "reference_convergence": _convergence(reference),
        "reference_sha256": sha256(path),
    }
    return reference, facts, notes


def _fitted_tica(trajectory: ReferenceTrajectory, peptide: Peptide) -> tuple[Tica, str]:
    """TICA of finite frames, each run by itself, and what it was fitted to: all frames count the same."""
    frames, lengths = trajectory.positions_nm, trajectory.run_lengths
    runs = [run for run in split_runs(frames, lengths) if len(run) > 1] or [frames]  # a single frame has no successor
    lag = tica_lag(min(map(len, runs)))
    tica = fit_tica(runs, peptide.topology, lag=lag)
    what = "the reference frames" if len(runs) == 1 else f"each of the reference's {len(runs)} independent runs"
    return tica, f"{what} here{' without weights' if trajectory.log_weights is not None else ''} (lag {lag} frames)"


def _states(peptide: Peptide, trajectory: ReferenceTrajectory, record: ReferenceRecord | None) -> list[StateEstimate]:
    """States of the record, or of finite frames as they are where there is none, or one of other windows."""
    torsions = states_of(peptide)
    labels = [state.label for state in torsions]
    if record and [state.label for state in record.states] == labels:
        return list(record.states)
    inside = occupied(torsions, trajectory.positions_nm)
    return estimate_states(labels, inside, trajectory.log_weights, trajectory.run_lengths)


def _convergence(reference: Reference) -> str:
    """Describe the runs of a reference, and whether they agree."""
    why, record = reasons(reference), reference.record
    text = f"not converged: {'; '.join(why)}" if why else "converged"
    if record is None:
        return f"{text} (judged by its frames alone: it has no record)"
    rungs = f" × {len(record.ladder.temperatures_k)} temperatures" if record.ladder else ""
    return f"{record.method}, {record.runs} independent run{'s' * (record.runs != 1)}{rungs}; {text}"


def energies_of(
    peptide: Peptide, positions_nm: np.ndarray, temperature_k: float, forcefield: str = DEFAULT_FORCEFIELD
) -> EnergyBatch:
    """Energies in kT of frames (T, N, 3) of a peptide, as those of samples are: of atoms in the standard order.

    Amber's improper torsions depend on the order of equal atoms in the topology: by 0.6 kT for a carboxyl group.
    """
    evaluate, _ = evaluator(peptide.iupac(), temperature_k, forcefield=forcefield)
    return evaluate(positions_nm[:, peptide.iupac_order], False)


def _described(stored: ReferenceTrajectory) -> str:
    """Format what a file says of itself."""
    if not stored.atoms:
        return f"{stored.conditions} (the file does not say)"
    made = [f"{stored.time_ns:g} ns" if stored.time_ns == stored.time_ns else "", stored.engine]
    return ", ".join([stored.conditions, *(part for part in made if part)])
