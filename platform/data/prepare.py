"""Data folders made of what there is: tars written again as columns, or the frames of one molecule as tars."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import mdtraj
import numpy as np
import ray
from numpy.typing import NDArray

from boltzray.molecules.columns import COLUMNS, PREPARED, source_of, write_columns
from boltzray.molecules.peptide import Peptide
from boltzray.molecules.shards import read_manifest, shard_sizes, write_shards
from boltzray.molecules.storage import is_url, list_files, read_bytes, replacing
from boltzray.molecules.tars import read_shard

from ..runtime.cluster import ClusterConfig, cluster
from ..runtime.config import data_folder, results_folder, results_home, write_json
from ..runtime.progress import say
from ..runtime.run_folder import RunFolder, holding
from .catalogue import BAD_DATA, ShardStats, folder_temperature, in_tasks, inspect_shard, peptides_of, read_pdbs

COPIED = ("pdbs/*/*.pdb", "pdb_tarfiles/*.tar", "trajectories_subsampled/*/*/*_subsampled.npz")
FRAMES_PER_SHARD = 2000


@dataclass(frozen=True, kw_only=True)
class PrepareJob:
    """Write a data folder `out`, for `data.path=` of training.

    Either `source`, a data folder or URL with tars: the same frames in the same order, as columns. Or `pdb` and
    `frames`, one molecule and its conformations, caps and all: an .npy, the `positions` of an .npz, (T, N, 3) in nm, or
    a trajectory that mdtraj reads; atoms in the order of the PDB.
    """

    source: str = ""
    pdb: str = ""
    frames: str = ""
    out: str = ""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        if not self.out or bool(self.source) == bool(self.pdb) or bool(self.pdb) != bool(self.frames):
            raise ValueError("give out=, the folder to write, and source=, a folder with tars, or pdb= and frames=")


def prepare(job: PrepareJob) -> Path:
    """Run `job`, or go on with it; returns the folder."""
    with holding(results_folder(job.out)):
        return _columns(job) if job.source else _molecule(job)


def _molecule(job: PrepareJob) -> Path:
    """The frames of one molecule → tars of the public layout."""
    home, out = results_home(), results_folder(job.out)
    peptide = Peptide.from_pdb(home / job.pdb)
    positions = load_frames(home / job.frames, home / job.pdb)
    if positions.ndim != 3 or positions.shape[1:] != (peptide.n_atoms, 3) or not len(positions):
        raise ValueError(
            f"{job.frames} holds positions of shape {positions.shape}, {job.pdb} has {peptide.n_atoms} atoms: give "
            "(frames, atoms, 3)"
        )
    (out / "pdbs" / "train").mkdir(parents=True, exist_ok=True)
    (out / "pdbs" / "train" / f"{peptide.sequence}.pdb").write_text(peptide.to_pdb())
    write_shards(out, {peptide.sequence: positions}, seed=0, frames_per_shard=FRAMES_PER_SHARD)
    say(f"{len(positions)} frames of {peptide.sequence}: {out}")
    return out


def load_frames(path: Path, pdb: Path) -> NDArray[np.float32]:
    """Positions (T, N, 3) in nm. Raises: ValueError for a file that holds none."""
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}: check frames=")
    try:
        if path.suffix in (".npy", ".npz"):
            loaded = np.load(path)
            return np.asarray(loaded["positions"] if path.suffix == ".npz" else loaded, np.float32)
        return np.asarray(mdtraj.load(str(path), top=str(pdb)).xyz, np.float32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no conformations ({' '.join(str(error).split())})") from error


def _columns(job: PrepareJob) -> Path:
    """Tars → columns; a shard that was written whole is not written again."""
    folder = job.source if is_url(job.source) else str(data_folder(job.source))
    if folder == str(data_folder(job.out)):
        raise ValueError(f"{folder} holds the tars: give another out=")
    # The source is a URL or an absolute path, which `job` has as typed.
    with RunFolder.open(job.out, "prepare", {}, source=folder) as run:
        return _columns_into(run, folder, job.cluster)


def _columns_into(run: RunFolder, folder: str, size: ClusterConfig) -> Path:
    out = run.path
    sizes, manifest = shard_sizes(folder), read_manifest(folder)
    if not all(path.endswith(".tar") for path in sizes):
        raise ValueError(f"{folder} is prepared already: give it to data.path=")
    (out / COLUMNS).mkdir(exist_ok=True)
    with run.track() as tracker, cluster(size):
        for path, relative in _small_files(folder):
            _copy(path, out / relative)
        peptides = peptides_of(read_pdbs(folder), False)
        known = ray.put({sequence: peptide.n_atoms for sequence, peptide in peptides.items()})
        expected = [int(manifest.get(PurePath(path).name, {}).get("samples", 0)) for path in sizes]
        targets = [out / COLUMNS / f"{PurePath(path).stem}.parquet" for path in sizes]
        calls = [(known, path, size, str(target)) for (path, size), target in zip(sizes.items(), targets, strict=True)]
        stats: list[ShardStats] = in_tasks("prepare shards", _convert, calls)
        shards = {
            target.name: {"source": [PurePath(path).name, size], "samples": count}
            for target, (path, size), count in zip(targets, sizes.items(), expected, strict=True)
        }
        temperature = folder_temperature(folder)
        write_json(out / PREPARED, {"source": folder, "temperature_k": temperature, "shards": shards})
        problems = [problem for shard in stats for problem in shard.problems]
        (out / BAD_DATA).write_text("".join(f"{problem}\n" for problem in problems))
        frames = sum(shard.frames for shard in stats)
        tracker.log({"frames": frames, "bad_frames": len(problems)})
    bad = f"; {len(problems)} were bad (named in {out / BAD_DATA})" if problems else ""
    say(f"{frames} frames in {len(shards)} shards{bad}: {out}")
    return out


def _convert(n_atoms: dict[str, int], path: str, size: int, target: str) -> ShardStats:
    """One tar → one file of columns, unless it is there already."""
    source = f"{PurePath(path).name} of {size} bytes"
    if source_of(Path(target)) != source:
        write_columns(Path(target), read_shard(path, n_atoms), source)
    return inspect_shard(target, 0, n_atoms, frozenset(n_atoms))


def _small_files(folder: str) -> Iterator[tuple[str, str]]:
    """Files that a data folder has beside its shards: path, and path below the folder."""
    for pattern in COPIED:
        for path in list_files(folder, pattern):
            yield path, path[path.rindex(f"/{pattern.split('/')[0]}/") + 1 :]


def _copy(path: str, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        temporary.write_bytes(read_bytes(path))
