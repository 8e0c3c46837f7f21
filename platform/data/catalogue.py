"""Inspection of a data folder before training: peptides, shards, σ, and the bad frames in a sample of shards."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
import ray

from boltzray.molecules.columns import read_frames, read_prepared
from boltzray.molecules.constants import PUBLISHED_K
from boltzray.molecules.distance_limits import DistanceLimits
from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD
from boltzray.molecules.sequences import n_residues, parse_sequence
from boltzray.molecules.shards import read_manifest, shard_sizes
from boltzray.molecules.storage import is_url, join, list_files, read_bytes
from boltzray.molecules.tars import CHANGED, Problem, ShardContent

from ..runtime.config import fingerprint
from ..runtime.peptide_names import Sequences, expanded
from ..runtime.progress import say
from ..runtime.tasks import in_tasks
from .peptide_tables import Conditions, PeptideTable, peptides_of

FIRST_SHARDS = 3  # of those inspected give a frame of each peptide; frames are shuffled, so that these have them all
HERE_BYTES = 64_000_000  # of local shards: read in the time in which a process of Ray starts
BAD_DATA = "bad_data.txt"  # in a results folder: a line for each problem
RUNS = "runs.json"  # in a data folder: its simulated runs
SOURCES = "sources.json"  # in a data folder: the files whose frames `prepare` took in


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Frames to train on, and how they are put into batches.

    `path`: a folder, or a URL (hf://, s3://, gs://). `sequences`: empty for every peptide that has a PDB.
    `scale_nm`: σ, measured on the data unless given. `shards_per_window` are shuffled together.
    `bucket_steps`: the frames of so many steps are sorted by atom count before they are cut into batches; 1 for not.
    `constant`: every batch has `train.batch` frames; or as many atoms as that many frames have on average.
    `max_bad_share`: fraction of frames that may be bad. `inspected_shards`: read before training, evenly spaced.
    `temperature_k`: of the simulations, read off the folder unless given. `verify`: compare the bytes of each shard
    with the manifest's, where there is one, when it is read for the first time.
    """

    path: str = "data"
    sequences: Sequences = ()
    max_residues: int = 8
    scale_nm: float | None = None
    shards_per_window: int = 8
    bucket_steps: int = 16
    constant: Literal["frames", "atoms"] = "frames"
    max_bad_share: float = 0.001
    inspected_shards: int = 32
    temperature_k: float | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad_share < 1:
            raise ValueError(f"max_bad_share={self.max_bad_share} must be a share, from 0 to below 1")
        if min(self.shards_per_window, self.bucket_steps, self.inspected_shards) < 1:
            raise ValueError("shards_per_window, bucket_steps and inspected_shards must be at least 1")
        if self.constant not in ("frames", "atoms"):
            raise ValueError(f"constant={self.constant!r} is unknown: choose frames or atoms")


@dataclass(frozen=True)
class ShardStats:
    """Counts of one pass over a shard.

    `members`: all of it, the bad ones too; `frames`: those to train on. σ² = `sum_squares` / `n_coordinates`, in nm².
    `first`: the first frame (N, 3) of each sequence, where asked for.
    """

    members: int
    frames: int
    sum_squares: float
    n_coordinates: int
    problems: list[Problem]
    first: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class FolderListing:
    """Names and small files of a data folder, as found without a cluster.

    `shards`: bytes by path. `manifest`: facts by file name, of shards that are ours. `pdbs`: texts of all peptides.
    `chosen`: sequences to train on.
    """

    shards: dict[str, int]
    manifest: dict[str, dict[str, Any]]
    pdbs: dict[str, str]
    chosen: list[str]
    temperature_k: float
    forcefield: str


@dataclass(frozen=True)
class KnownPeptides:
    """Numbers of atoms and limits of distances of a folder's peptides, by which its shards are read."""

    n_atoms: dict[str, int]
    limits: dict[str, DistanceLimits]

    @classmethod
    def of(cls, peptides: Mapping[str, PeptideTable]) -> "KnownPeptides":
        """Take it from the tables of peptides by sequence."""
        limits = {sequence: table.limits for sequence, table in peptides.items() if table.limits}
        return cls({sequence: table.n_atoms for sequence, table in peptides.items()}, limits)

    def read(self, path: str, expected: int = 0, sha256: str = "") -> ShardContent:
        """Read the sound frames of a shard, of which `expected` should be there: see `read_frames`."""
        content = read_frames(path, self.n_atoms, self.limits, sha256)
        if content.problems and content.problems[0].reason == CHANGED:
            return ShardContent([], [content.problems[0]._replace(frames=max(1, expected))])
        members = len(content.frames) + len(content.problems)
        return ShardContent(content.frames, [*content.problems, *missing_frames(path, expected, members)])


@dataclass(frozen=True)
class Catalogue:
    """A data set as found.

    `peptides` to train on, in the order that numbers them; `known` of all that the folder has, in Ray's store.
    `expected`: members of each shard where that is known, else 0; `sha256` of its bytes, where it is to be checked.
    `n_frames`: of an epoch, an estimate unless `exact`; `max_bad` of them may be bad. `geometry`: version of the usual
    bonds and angles, for a flow of internal coordinates. `structures`: PDB texts by sequence, in Ray's store, where
    energies of frames are wanted. `small`: so few bytes, and local, that whoever wants them reads them by himself.
    """

    peptides: tuple[PeptideTable, ...]
    known: Any
    shards: list[str]
    expected: list[int]
    sha256: list[str]
    n_frames: int
    exact: bool
    scale_nm: float
    temperature_k: float
    problems: list[Problem]
    max_bad: int
    fingerprint: str
    geometry: str | None = None
    structures: Any = None
    small: bool = False

    @property
    def sequences(self) -> list[str]:
        return [peptide.sequence for peptide in self.peptides]

    def summary(self) -> dict[str, Any]:
        """Plain values for people, and for the results folder."""
        return {
            "sequences": self.sequences,
            "shards": len(self.shards),
            "frames": self.n_frames,
            "frames_are_an_estimate": not self.exact,
            "scale_nm": self.scale_nm,
            "temperature_k": self.temperature_k,
            "problems": [str(problem) for problem in self.problems],
            "fingerprint": self.fingerprint,
        }


def inspect_shard(
    path: str,
    expected: int,
    known: KnownPeptides,
    chosen: frozenset[str],
    *,
    first: bool = False,
    sha256: str = "",
) -> ShardStats:
    """Read one shard, count its frames of the `chosen` peptides, and list what is wrong with it.

    `first`: keep the first frame of each peptide.
    """
    content = known.read(path, expected, sha256)
    used = [frame.positions for frame in content.frames if frame.sequence in chosen]
    squares = sum(float(np.square(x - x.mean(axis=0), dtype=np.float64).sum()) for x in used)
    members = len(content.frames) + len(content.problems)
    seen: dict[str, np.ndarray] = {}
    if first:
        for frame in content.frames:
            seen.setdefault(frame.sequence, np.array(frame.positions))
    return ShardStats(members, len(used), squares, sum(x.size for x in used), content.problems, seen)


def missing_frames(path: str, expected: int, members: int) -> list[Problem]:
    """One problem if a shard is shorter than it should be: a tar that ends early, between two members, looks sound."""
    return [Problem.missing(PurePath(path).name, expected, members)] if members < expected else []


def list_folder(config: DataConfig, folder: str) -> FolderListing:
    """Find all names in a data folder, without a cluster.

    Raises: ValueError when there is nothing to train on.
    """
    shards, pdbs = shard_sizes(folder), read_pdbs(folder)
    chosen = _chosen(config, pdbs, training_pdbs(folder))
    manifest = read_prepared(folder).get("shards") or read_manifest(folder)
    temperature = config.temperature_k or folder_temperature(folder)
    listing = FolderListing(shards, manifest, pdbs, chosen, temperature, frames_forcefield(folder))
    if not config.sequences and (left_out := _too_long(config, listing)):
        say(f"note{left_out} to train on them")
    return listing


def inspect_data(
    config: DataConfig, folder: str, *, geometry: str | None = None, listing: FolderListing | None = None
) -> Catalogue:
    """Inspect a data folder: all names, and the content of some shards, as Ray tasks where that is much.

    `geometry`: version of the usual bonds and angles, for a flow of internal coordinates. `listing`: of the folder, if
    it is at hand.

    Raises: ValueError when there is nothing to train on, or too much of it is bad.
    """
    listing = listing or list_folder(config, folder)
    shards, manifest, chosen = list(listing.shards), listing.manifest, listing.chosen
    conditions = Conditions(temperature_k=listing.temperature_k, forcefield=listing.forcefield, geometry=geometry)
    peptides = peptides_of(listing.pdbs, conditions)
    facts = [manifest.get(PurePath(path).name, {}) for path in shards]
    expected = [int(fact.get("samples", 0)) for fact in facts]
    sha256 = [str(fact.get("sha256", "")) if config.verify else "" for fact in facts]
    picked = sorted({int(i) for i in np.linspace(0, len(shards) - 1, min(config.inspected_shards, len(shards)))})
    table, wanted = KnownPeptides.of(peptides), frozenset(chosen)
    known = ray.put(table)
    calls = [(shards[i], expected[i], wanted, i in picked[:FIRST_SHARDS], sha256[i]) for i in picked]
    stats: list[ShardStats]
    local = not is_url(folder)
    if local and sum(listing.shards[shards[i]] for i in picked) <= HERE_BYTES:
        stats = [_inspect(table, *call) for call in calls]
    else:
        stats = in_tasks("look at shards", _inspect, [(known, *call) for call in calls])
    frames: dict[str, np.ndarray] = {}
    for shard in stats:
        frames |= shard.first
    if not any(expected):
        usual = _usual_length([shard.members for shard in stats])
        expected = [usual] * (len(shards) - 1) + [0]  # the last one may be shorter
        for i, shard in zip(picked, stats, strict=True):
            shard.problems.extend(missing_frames(shards[i], expected[i], shard.members))
    used = sum(shard.frames for shard in stats)
    problems = [problem for shard in stats for problem in shard.problems]
    if not used:
        reason = f"; the first problem: {problems[0]}" if problems else ""
        raise ValueError(f"no frame in {folder} can be used for training{_left_out(config, listing)}{reason}")
    n_frames = round(used / len(picked) * len(shards))
    max_bad = int(config.max_bad_share * n_frames)
    bad = sum(problem.frames for problem in problems)
    if bad > max_bad:
        raise ValueError(
            f"{bad} of about {n_frames + bad} frames are bad, more than max_bad_share={config.max_bad_share}; "
            f"the first: {problems[0]}: mend the shards, or raise data.max_bad_share"
        )
    variance = sum(shard.sum_squares for shard in stats) / sum(shard.n_coordinates for shard in stats)
    # A prepared folder is the one that it was made of: a run may go on with either.
    sources = [
        manifest.get(PurePath(path).name, {}).get("source", [PurePath(path).name, size])
        for path, size in listing.shards.items()
    ]
    identity = [[*source, count] for source, count in zip(sources, expected, strict=True)]
    return Catalogue(
        peptides=tuple(peptides[s].ordered_by(frames[s]) if s in frames else peptides[s] for s in chosen),
        known=known,
        shards=shards,
        expected=expected,
        sha256=sha256,
        n_frames=n_frames,
        exact=len(picked) == len(shards),
        scale_nm=config.scale_nm or round(float(np.sqrt(variance)), 4),
        temperature_k=listing.temperature_k,
        problems=problems,
        max_bad=max_bad,
        fingerprint=fingerprint([identity, chosen, round(float(variance), 6)]),
        geometry=geometry,
        small=local and sum(listing.shards.values()) <= HERE_BYTES,
    )


def _usual_length(members: Sequence[int]) -> int:
    """The number of members that most shards have, or 0 if they do not agree: nothing is known then."""
    value, times = Counter(members).most_common(1)[0]
    return value if times >= 3 and 2 * times > len(members) else 0


def _inspect(
    known: KnownPeptides, path: str, expected: int, chosen: frozenset[str], first: bool, sha256: str
) -> ShardStats:
    return inspect_shard(path, expected, known, chosen, first=first, sha256=sha256)


def training_pdbs(folder: str) -> set[str]:
    """Sequences whose PDB is in split train; those of other splits are not trained on unless they are named."""
    found = {PurePath(path).stem for path in list_files(folder, "pdbs/train/*.pdb")}
    for path in list_files(folder, "pdb_tarfiles/train.tar") if not found else ():
        with tarfile.open(fileobj=io.BytesIO(read_bytes(path))) as tar:
            found = {PurePath(member.name).stem for member in tar if member.name.endswith(".pdb")}
    return found


def read_pdbs(folder: str) -> dict[str, str]:
    """PDB texts by sequence, from pdbs/SPLIT/ or, as on the hub, from pdb_tarfiles/SPLIT.tar.

    Raises: ValueError when there are none.
    """
    found = {PurePath(path).stem: read_bytes(path).decode() for path in list_files(folder, "pdbs/*/*.pdb")}
    if not found:
        for path in list_files(folder, "pdb_tarfiles/*.tar"):
            with tarfile.open(fileobj=io.BytesIO(read_bytes(path))) as tar:  # read in memory, never unpacked
                for member in tar:
                    if member.isfile() and member.name.endswith(".pdb") and (file := tar.extractfile(member)):
                        found[PurePath(member.name).stem] = file.read().decode()
    if not found:
        where = join(folder, "pdbs")
        raise ValueError(f"no PDB files in {where}: expected pdbs/train/SEQUENCE.pdb for each peptide")
    return found


def _chosen(config: DataConfig, pdbs: dict[str, str], of_split: set[str]) -> list[str]:
    """Sequences to train on: those named, or all `of_split` train, or, where nothing is of that split, all.

    Raises: ValueError for one that has no PDB, or where `max_residues` leaves none.
    """
    chosen = set()
    for given in expanded(config.sequences):
        sequence = given if given in pdbs else parse_sequence(given)  # of a file, residues outside the twenty as well
        if sequence not in pdbs:
            known = ", ".join(sorted(pdbs)[:20])
            raise ValueError(f"data.sequences names {sequence}, which has no PDB: there are {known}")
        chosen.add(sequence)
    if not config.sequences:
        chosen = {sequence for sequence in of_split or pdbs if n_residues(sequence) <= config.max_residues}
    if not chosen:
        shortest = min(of_split or pdbs, key=n_residues)
        raise ValueError(
            f"data.max_residues={config.max_residues} leaves out every peptide of the folder, from {shortest} "
            f"on: give data.max_residues={n_residues(shortest)} or more"
        )
    return sorted(chosen)


def _left_out(config: DataConfig, listing: FolderListing) -> str:
    """For an error: the peptides that are left out, and the key that brings them back."""
    others = sorted(listing.pdbs.keys() - set(listing.chosen), key=n_residues)
    if not others:
        return ""
    if config.sequences:
        return f": data.sequences leaves out {_some(others)}"
    if too_long := _too_long(config, listing):
        return too_long
    return f": {_some(others)} are not of split train: name them in data.sequences to train on them"


def _too_long(config: DataConfig, listing: FolderListing) -> str:
    """For a note or an error: the peptides that `max_residues` leaves out, and the number that brings them back."""
    others = sorted((s for s in listing.pdbs if n_residues(s) > config.max_residues), key=n_residues)
    if not others:
        return ""
    longest = n_residues(others[-1])
    return f": data.max_residues={config.max_residues} leaves out {_some(others)}, give data.max_residues={longest}"


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}"


def folder_temperature(folder: str) -> float:
    """Temperature (K) of the folder's own simulations, md/SEQUENCE_TEMPERATURE_INTERVAL_…, of ladders that of the rung
    taken, and of the frames that were prepared, else the published one.

    Raises: ValueError when they differ.
    """
    if prepared := read_prepared(folder):
        return float(prepared["temperature_k"])
    paths = {PurePath(path).parent.name: path for path in list_files(folder, "md/*/run.json")}
    ladders = {name: path for name, path in paths.items() if name.split("_")[1] == "remd"}
    found = {float(name.split("_")[1]) for name in paths.keys() - ladders} | _rung_temperatures(folder, ladders)
    found |= {float(json.loads(read_bytes(path))["temperature_k"]) for path in list_files(folder, SOURCES)}
    if len(found) > 1:
        raise ValueError(f"{folder} holds frames at {sorted(found)} K: give data.temperature_k")
    return found.pop() if found else PUBLISHED_K


def frames_forcefield(folder: str) -> str:
    """Force field of frames that were prepared or simulated, by name; the published one where nothing says it."""
    if prepared := read_prepared(folder):
        return str(prepared.get("forcefield", DEFAULT_FORCEFIELD))
    for path in list_files(folder, SOURCES):
        return str(json.loads(read_bytes(path))["forcefield"])
    for path in list_files(folder, "md/*/run.json"):  # of one: they do not differ
        return str(json.loads(read_bytes(path))["settings"]["forcefield"])
    return DEFAULT_FORCEFIELD


def _rung_temperatures(folder: str, ladders: Mapping[str, str]) -> set[float]:
    """Temperatures (K) of the rungs of ladders that are trained on; of one that a stopped job left, the lowest.

    `ladders`: run.json of each.
    """
    runs = {name: run for path in list_files(folder, RUNS) for name, run in json.loads(read_bytes(path)).items()}
    found = set()
    for name, path in ladders.items():
        rung = runs[name][2] if name in runs else 0
        found.add(float(json.loads(read_bytes(path))["settings"]["temperatures_k"][rung]))
    return found
