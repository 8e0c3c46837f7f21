"""Frames of one molecule from files, checked and taken into a data folder beside those that it has."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boltzray.molecules.frame_checks import check_frames
from boltzray.molecules.frame_file import FrameFile, Selection
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.references import find_pdb
from boltzray.molecules.stereo import atom_map
from boltzray.molecules.storage import replacing
from boltzray.molecules.structure_file import read_structure
from boltzray.molecules.structure_text import file_bytes
from boltzray.molecules.trajectories import read_frames

from ..runtime.progress import progress, say
from .sources import (
    PREPARED_FRAMES,
    Source,
    SourceTable,
    check_addable,
    read_sources,
    refresh_reference,
    write_sources,
    write_training,
)

FRAMES_PER_SHARD = 2000
SHORTEST_HELD_OUT = 10  # frames of a file, for a reference


@dataclass(frozen=True, kw_only=True)
class OwnFrames:
    """Files with frames of the molecule in a structure file `pdb`, what they are of, and how many to hold out."""

    pdb: Path
    paths: Sequence[Path]
    temperature_k: float
    forcefield: str
    hold_out: float

    def take_in(self, folder: Path) -> tuple[Peptide, dict[str, Source]]:
        """Check all frames, then add them to the data folder; returns the peptide as that has it, and what was added.

        The same frames again replace themselves. Raises: ValueError, before the folder changes.
        """
        check_addable(folder)
        given = Peptide.from_pdb(self.pdb, states=True)
        if given.own_forcefield:
            self = replace(self, forcefield=given.own_forcefield)
        for note in given.notes:
            say(f"note: {self.pdb.name}: {note}")
        there = find_pdb(folder, given.sequence)
        peptide = Peptide.from_pdb(there) if there else given
        order = atom_map(given, peptide) if there else np.arange(given.n_atoms)
        with tempfile.TemporaryDirectory(prefix=".frames_", dir=folder) as staging:
            added = self._check(given, order, Path(staging))
            if not there:
                _write_pdb(folder / "pdbs" / "train" / f"{peptide.sequence}.pdb", given)
            (folder / PREPARED_FRAMES).mkdir(exist_ok=True)
            for name in added:
                Path(staging, f"{name}.npy").replace(folder / PREPARED_FRAMES / f"{name}.npy")
        self._record(folder, peptide, added)
        write_training(folder, seed=0, frames_per_shard=FRAMES_PER_SHARD)
        return peptide, added

    def _check(self, peptide: Peptide, order: NDArray[np.int64], staging: Path) -> dict[str, Source]:
        """Read and check all files, and leave their frames in `staging`."""
        added: dict[str, Source] = {}
        notes: dict[str, list[str]] = {}
        own = peptide.own_forcefield  # a molecule file has no other atoms
        n_file = peptide.n_atoms if own else read_structure(file_bytes(self.pdb), self.pdb.name, states=True).n_atoms
        selection = Selection(self.pdb.name, peptide.n_atoms, n_file, peptide.file_atoms)
        sizes = [path.stat().st_size for path in self.paths]
        with progress("check frames", sum(sizes)) as update:
            for number, path in enumerate(self.paths):
                update(sum(sizes[:number]), path.name)
                frames = read_frames(path, selection)
                checked = check_frames(
                    self._by_name(frames, peptide),
                    peptide,
                    self.pdb.name,
                    temperature_k=self.temperature_k,
                    forcefield=self.forcefield,
                )
                x = np.ascontiguousarray(checked.positions[:, order])
                name = f"{peptide.sequence}_{hashlib.sha256(x.tobytes()).hexdigest()[:12]}"
                for note in checked.notes:
                    notes.setdefault(note, []).append(path.name)
                if name in added:
                    notes.setdefault(f"the same frames as {added[name].file}: taken once", []).append(path.name)
                    continue
                np.save(staging / f"{name}.npy", x)
                added[name] = Source(
                    sequence=peptide.sequence,
                    file=path.name,
                    frames=len(x),
                    held_out=self._held_out(path, len(x)),
                    left_out=checked.left_out,
                    spacing_ps=round(frames.spacing_ps, 6) if frames.spacing_ps else None,
                )
            update(sum(sizes), "")
        for note, names in notes.items():
            say(f"note: {listed(names)}: {note}")
        return added

    def _by_name(self, frames: FrameFile, peptide: Peptide) -> FrameFile:
        """Put atoms in the order of the PDB, where the file says what they are."""
        if frames.structure is None or peptide.own_forcefield:
            return frames
        try:
            order = atom_map(Peptide.from_pdb(frames.structure), peptide)
        except ValueError as error:
            raise ValueError(f"{frames.path.name} and {self.pdb.name} are of different molecules: {error}") from error
        same = np.array_equal(order, np.arange(len(order)))
        return frames if same else replace(frames, positions=frames.positions[:, order])

    def _held_out(self, path: Path, count: int) -> int:
        """Count the frames at the end of a file that are held out. Raises: ValueError when they are too few."""
        held_out = round(self.hold_out * count)
        if self.hold_out and held_out < SHORTEST_HELD_OUT:
            raise ValueError(
                f"hold_out={self.hold_out:g} of the {count} frames of {path.name} is {held_out}, and a reference needs "
                f"{SHORTEST_HELD_OUT} or more of each file: give hold_out=0, or longer trajectories"
            )
        return held_out

    def _record(self, folder: Path, peptide: Peptide, added: dict[str, Source]) -> None:
        """Write sources.json, and the reference of the peptide if it has or had one."""
        table = read_sources(folder)
        earlier = table.sources if table else {}
        sources = earlier | added
        write_sources(
            folder, SourceTable(temperature_k=self.temperature_k, forcefield=self.forcefield, sources=sources)
        )
        own = [s for s in (*earlier.values(), *added.values()) if s.sequence == peptide.sequence]
        if any(source.held_out for source in own):
            refresh_reference(folder, peptide, self.temperature_k, self.forcefield)


def listed(names: Sequence[str]) -> str:
    """Join names, the first few of many."""
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def _write_pdb(path: Path, peptide: Peptide) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(peptide.to_pdb())
