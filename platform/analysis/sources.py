"""Conformations to analyse, from folders of samples, reference MD, or trajectories of one's own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boltzray import models
from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD, forcefield_of
from boltzray.molecules.frame_checks import check_frames
from boltzray.molecules.frame_file import FrameFile, Selection
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.references import find_pdb
from boltzray.molecules.stereo import atom_map
from boltzray.molecules.storage import read_json
from boltzray.molecules.structure_file import read_structure
from boltzray.molecules.structure_text import file_bytes
from boltzray.molecules.subsample import checked_log_weights
from boltzray.molecules.trajectories import read_frames
from boltzray.samplers.com import CenterOfMass

from ..evaluation.reference import find_comparable
from ..report.observable_rows import FrameSet
from ..runtime.config import display_path, results_home
from ..runtime.progress import say
from ..sampling.sample_files import read_samples
from ..sampling.target import trained_at_k


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleFolder:
    """Ensembles of one results folder, the final one last, and the conditions that they are of."""

    path: Path
    peptide: Peptide
    ensembles: tuple[Ensemble, ...]
    temperature_k: float
    forcefield: str
    com: CenterOfMass
    checkpoint: str

    @classmethod
    def read(cls, path: Path) -> "SampleFolder":
        """Read a folder of `sample` or `finetune`. Raises: FileNotFoundError, ValueError for another folder."""
        peptide, ensembles = read_samples(path)
        settings = read_json(path / "sample.json")
        return cls(
            path=path,
            peptide=peptide,
            ensembles=tuple(ensembles),
            temperature_k=float(settings["temperature_k"]),
            forcefield=forcefield_of(peptide, settings.get("forcefield", DEFAULT_FORCEFIELD)),
            com=settings.get("com", "gaussian"),
            checkpoint=settings.get("checkpoint", ""),  # `Ensemble.save` knows none
        )

    @cached_property
    def _checkpoint(self) -> Path:
        if not self.checkpoint:
            raise ValueError(f"{display_path(self.path)} does not say which flow drew it: it has no free energy")
        return models.locate(self.checkpoint, results_home())

    @cached_property
    def scale_nm(self) -> float:
        """Length scale of the flow that drew them."""
        return float(models.checkpoint.outline(self._checkpoint).scale_nm)

    @property
    def temperature_ratio(self) -> float:
        """Temperature over that of the flow's training."""
        return self.temperature_k / trained_at_k(self._checkpoint)

    def sets(self, peptide: Peptide, prefix: str = "") -> list[FrameSet]:
        """Its ensembles with atoms in the order of `peptide`. Raises: ValueError for another peptide."""
        order = same_molecule(self.peptide, peptide, display_path(self.path))
        sets = [FrameSet.of(e, self.temperature_k) for e in self.ensembles]
        return [replace(s, name=prefix + s.name, positions_nm=s.positions_nm[:, order]) for s in sets]


def same_molecule(given: Peptide, peptide: Peptide, name: str) -> NDArray[np.int64]:
    """Atoms of `given` in the order of `peptide`. Raises: ValueError when it is another."""
    named = not (given.own_forcefield and peptide.own_forcefield)  # two energies of a molecule may have two names
    if named and given.sequence != peptide.sequence:
        raise ValueError(f"{name} is of {given.sequence}, the others of {peptide.sequence}: analyse one peptide a time")
    return atom_map(given, peptide)


def reference_set(
    peptide: Peptide, data: Path, temperature_k: float, forcefield: str, judge: bool = True
) -> FrameSet | None:
    """Reference MD under these conditions, or None, and a note why; `judge`: the others are compared with it."""
    found = find_comparable(peptide, data, temperature_k, forcefield)
    if found.trajectory is None:
        say(f"note: {found.note}")
        return None
    md = found.trajectory
    frames = FrameSet.of_reference(md.positions_nm, md.log_weights, md.run_lengths, temperature_k)
    return replace(frames, reference=judge)


def named_peptide(sequence: str, data: Path) -> Peptide:
    """The peptide as the data folder has it, else built from its sequence."""
    pdb = find_pdb(data, sequence)
    return Peptide.from_pdb(pdb) if pdb else Peptide.from_sequence(sequence)


def own_frames(
    peptide: Peptide, pdb: Path, paths: Sequence[Path], weights: Path | None, temperature_k: float, forcefield: str
) -> FrameSet:
    """Frames of trajectories, each a run of its own, with log-weights from a file.

    Raises: ValueError for frames of another molecule, or another number of weights than of frames.
    """
    n_file = read_structure(file_bytes(pdb), pdb.name, states=True).n_atoms
    selection = Selection(pdb.name, peptide.n_atoms, n_file, peptide.file_atoms)
    parts = []
    for path in paths:
        frames = _by_name(read_frames(path, selection), peptide)
        checked = check_frames(frames, peptide, pdb.name, temperature_k=temperature_k, forcefield=forcefield)
        for note in checked.notes:
            say(f"note: {path.name}: {note}")
        if weights and checked.left_out:
            raise ValueError(f"{path.name}: frames would be left out, so weights= cannot be told apart: leave them out")
        parts.append(checked.positions)
    positions = np.concatenate(parts)
    return FrameSet(
        name="trajectory" if len(paths) == 1 else f"{len(paths)} trajectories",
        positions_nm=positions,
        log_weights=None if weights is None else _log_weights(weights, len(positions)),
        temperature_k=temperature_k,
        run_lengths=tuple(map(len, parts)),
    )


def _by_name(frames: FrameFile, peptide: Peptide) -> FrameFile:
    """Put atoms in the order of the PDB, where the file says what they are."""
    if frames.structure is None:
        return frames
    order = same_molecule(Peptide.from_pdb(frames.structure), peptide, frames.path.name)
    return replace(frames, positions=frames.positions[:, order])


def _log_weights(path: Path, n: int) -> NDArray[np.float64]:
    """Log-weights of a text file, an .npy, or `log_weights` of an .npz."""
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}: check weights=")
    try:
        found: Any = np.loadtxt(path) if path.suffix not in (".npy", ".npz") else np.load(path)
        values = found["log_weights"] if path.suffix == ".npz" else found
        return checked_log_weights(values, n, "trajectory's")
    except (KeyError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: {reason}: give the log of a weight for each frame, one a line, or .npy") from None
