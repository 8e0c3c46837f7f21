"""Checks of frames that come from elsewhere, before a flow learns them: each fault with its likely cause.

Bonds tell most of it: their lengths are known to a few per cent, whatever the force field.
Shapes: T frames, N atoms, B bonds (first, second), C centres with four neighbours.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .bonds import LONG, SHORT, bonds_of
from .frame_file import FrameFile
from .frame_statistics import bond_lengths, in_chunks, repeated, rounded, vibrations
from .observables import chiral_centres, chirality_signs
from .peptide import Peptide
from .periodic import make_whole
from .stereo import atom_map

MAX_BAD_FRACTION = 0.1  # of a file's frames that may be left out: more is a fault of the file
ALIKE = (0.7, 1.4)  # the same, for lengths that are divided by their common factor
LOOKED_AT = 5  # frames, for the names of prochiral atoms
APART_NM = 1.0  # atoms of a bond over the edge of a box are further apart: no box is smaller


@dataclass(frozen=True, kw_only=True)
class CheckedFrames:
    """Sound frames of one file, in order of time, and what a user should know of them.

    `left_out`: frames by reason. Shape: positions (T, N, 3) float32. Units: nm.
    """

    positions: NDArray[np.float32]
    notes: tuple[str, ...]
    left_out: dict[str, int] = field(default_factory=dict)


class _Frames:
    """The frames of one file while they are checked."""

    def __init__(self, name: str, peptide: Peptide, pdb: str, found: FrameFile) -> None:
        self.name, self.peptide, self.pdb = name, peptide, pdb
        self.x, self.box, self.index = found.positions, found.box, np.arange(len(found.positions))
        self.total = len(found.positions)
        self.notes: list[str] = []
        self.left_out: dict[str, int] = {}
        self.bonds, self.usual = bonds_of(peptide.topology)

    def leave_out(self, bad: NDArray[np.bool_], reason: str, hint: str) -> None:
        """Drop frames, and note it. Raises: ValueError when they are too many."""
        if not bad.any():
            return
        count, first = int(bad.sum()), int(self.index[np.argmax(bad)])
        if sum(self.left_out.values()) + count > MAX_BAD_FRACTION * self.total:
            which = "every frame" if count == self.total else f"{count} of {self.total} frames (the first: {first})"
            raise ValueError(f"{self.name}: {reason} in {which}: {hint}")
        self.left_out[reason] = count
        self.notes.append(f"{count} of {self.total} frames left out: {reason} (the first: frame {first})")
        self.keep(~bad)

    def keep(self, good: NDArray[np.bool_]) -> None:
        self.x, self.index = self.x[good], self.index[good]
        self.box = None if self.box is None else self.box[good]

    def ratios(self) -> NDArray[np.float32]:
        """Bond lengths over the usual ones. Shape: (T, B)."""
        return np.divide(bond_lengths(self.x, self.bonds), self.usual, dtype=np.float32)

    def bond(self, index: int) -> str:
        """Name a bond."""
        atoms = list(self.peptide.topology.atoms())
        first, second = (atoms[i] for i in self.bonds[index])
        return f"{first.name}-{second.name} of {first.residue.name} {first.residue.index + 1}"


def check_frames(
    found: FrameFile, peptide: Peptide, pdb: str, *, temperature_k: float, forcefield: str
) -> CheckedFrames:
    """Check the frames of a file, mend what can be mended without doubt, and leave out few bad ones.

    `pdb`: name of the file that `peptide` was read from. Å become nm, molecules are made whole where there is a box.
    Raises: ValueError of one line with the likely cause, when they are not frames of this peptide.
    """
    frames = _Frames(found.path.name, peptide, pdb, found)
    if not frames.total:
        raise ValueError(f"{frames.name} has no frames")
    if found.torn:
        frames.notes.append(f"the file ends in the middle of a frame: {frames.total} whole ones are used")
    for check in (_finite, _filled, _unit, _rounded, _whole, _order, _handed):
        check(frames)
    x = np.ascontiguousarray(frames.x, dtype=np.float32)
    notes = (*frames.notes, *repeated(x), *vibrations(x, peptide, frames.bonds, temperature_k, forcefield))
    return CheckedFrames(positions=x, notes=notes, left_out=frames.left_out)


def _finite(frames: _Frames) -> None:
    bad = ~np.isfinite(frames.x).all(axis=(1, 2))
    frames.leave_out(bad, "NaN or infinite positions", "the simulation was not stable, or the file is damaged")


def _filled(frames: _Frames) -> None:
    bad = np.ptp(frames.x, axis=1).max(axis=1) < 1e-6
    hint = "it was written before its positions were set" if bad.all() else "it was not filled to its end"
    frames.leave_out(bad, "all atoms at one point (zeros)" if bad.any() else "", f"{hint}: write it again")


def _unit(frames: _Frames) -> None:
    """Å become nm: bonds that are ten times too long, all alike, leave no doubt."""
    ratios = frames.ratios()
    if _alike(ratios, 10) > 0.4 and _alike(ratios, 1) < 0.1:  # the others may be broken over a box
        frames.x = (frames.x.astype(np.float64) / 10).astype(np.float32)
        frames.box = None if frames.box is None else frames.box / 10
        frames.notes.append("bonds are ten times too long: the positions are in Å, and were made nm")
        return
    factor = float(np.median(ratios))
    if not SHORT < factor < LONG and _alike(ratios, factor) > 0.9:
        raise ValueError(
            f"{frames.name}: all bonds are {factor:.3g} times as long as they should be: positions are scaled, or in "
            "another unit: give nm (or Å, which is recognised)"
        )


def _rounded(frames: _Frames) -> None:
    """Note it, before a box moves atoms by other amounts."""
    frames.notes += rounded(frames.x)


def _alike(ratios: NDArray[np.float32], factor: float) -> float:
    """Return the fraction of bonds that are about so many times too long."""
    return float(np.mean((ratios > ALIKE[0] * factor) & (ratios < ALIKE[1] * factor)))


def _whole(frames: _Frames) -> None:
    """Make molecules whole that are broken over the edges of a periodic box."""
    ratios = frames.ratios()
    wrong = (ratios > LONG) | (ratios < SHORT)
    broken = wrong.any(axis=1)
    if not broken.any():
        return
    lengths = np.where(wrong, ratios * frames.usual, np.inf)[broken]
    if frames.box is not None:
        half = np.linalg.norm(frames.box, axis=2).min(axis=1)[broken] / 2
        torn = np.flatnonzero(broken)[(np.where(wrong[broken], lengths, 0) > half[:, None]).any(axis=1)]
        if len(torn):
            mended = np.array(frames.x)
            mended[torn] = make_whole(frames.x[torn], frames.box[torn], frames.bonds)
            frames.x = mended
            frames.notes.append(f"{len(torn)} frames were broken over the periodic box, and were made whole")
        return
    same_bonds = wrong.mean(axis=0).max() > 1 - MAX_BAD_FRACTION
    extent = np.ptp(frames.peptide.positions, axis=0).max()
    few = np.median(wrong[broken].sum(axis=1)) <= len(frames.bonds) / 3
    far = np.median(lengths.min(axis=1)) > (max(APART_NM, 1.2 * extent) if same_bonds else APART_NM)
    if few and far:
        raise ValueError(
            f"{frames.name}: the molecule is broken over the edges of a periodic box in {int(broken.sum())} of "
            f"{frames.total} frames (a bond of {np.median(lengths.min(axis=1)):.2f} nm in frame "
            f"{int(frames.index[np.argmax(broken)])}), and the file has no box to mend it with: make molecules whole "
            "first (gmx trjconv -pbc mol, cpptraj autoimage, mdtraj image_molecules), or give the XTC, DCD or NetCDF "
            "file with its box"
        )


def _order(frames: _Frames) -> None:
    """Refuse frames whose bonds are not those of the topology; leave out those of a step that failed."""
    ratios = frames.ratios()
    wrong = (ratios > LONG) | (ratios < SHORT)
    always = wrong.mean(axis=0) > 1 - MAX_BAD_FRACTION
    if always.any():
        worst = int(np.argmax(np.where(always, np.abs(np.log(np.median(ratios, axis=0).clip(1e-6))), -1)))
        length = float(np.median(ratios[:, worst]) * frames.usual[worst])
        raise ValueError(
            f"{frames.name}: {int(always.sum())} of {len(always)} bonds of {frames.pdb} have wrong lengths in every "
            f"frame ({frames.bond(worst)}: {length:.2g} nm): its atoms are in another order than in {frames.pdb}, or "
            "it is another molecule: give as pdb= the structure that it was written with"
        )
    frames.leave_out(
        np.asarray(wrong.any(axis=1)),
        "bonds that are torn or crushed",
        "the simulation was not stable, or molecules are broken over a periodic box",
    )


def _handed(frames: _Frames) -> None:
    """Refuse mirror images and other diastereomers; put prochiral atoms in the order of the PDB."""
    topology = frames.peptide.topology
    usual = chirality_signs(frames.peptide.positions[None], topology)[0]  # 0 in a PDB without coordinates
    inverted = in_chunks(lambda x: chirality_signs(x, topology), frames.x) * usual < 0
    always = inverted.mean(axis=0) > 1 - MAX_BAD_FRACTION
    if always.any():
        atoms = list(topology.atoms())
        centres = [atoms[i] for i in chiral_centres(topology)[always, 0]]
        which = ", ".join(f"{atom.name} of {atom.residue.name} {atom.residue.index + 1}" for atom in centres)
        what = (
            "it is the mirror image (D-residues, or a coordinate with the wrong sign)" if always.all() else "an isomer"
        )
        raise ValueError(
            f"{frames.name}: {which} is the other way round than in {frames.pdb}: {what}: give the frames of that "
            "molecule"
        )
    frames.leave_out(np.asarray(inverted.any(axis=1)), "a centre that has turned over", "the simulation was not stable")
    _exchange_prochiral(frames)


def _exchange_prochiral(frames: _Frames) -> None:
    """Put prochiral atoms, told by where they stand in some of the frames, under the names that the PDB has for them.

    Frames that were written with another naming than the PDB have them exchanged, in all frames alike.
    """
    looked_at = {int(i) for i in np.linspace(0, len(frames.x) - 1, LOOKED_AT)}
    orders = Counter(tuple(atom_map(frames.peptide.at(frames.x[i]), frames.peptide).tolist()) for i in looked_at)
    order, times = orders.most_common(1)[0]
    changed = [i for i, j in enumerate(order) if i != j]
    if changed and 2 * times > len(looked_at):
        atoms = list(frames.peptide.topology.atoms())
        frames.x = frames.x[:, list(order)]
        names = [f"{atoms[i].name} of {atoms[i].residue.name} {atoms[i].residue.index + 1}" for i in changed]
        frames.notes.append(
            f"equivalent atoms have each other's names in {frames.pdb}, and were exchanged: {', '.join(names[:4])}"
            f"{' and others' if len(names) > 4 else ''}"
        )
