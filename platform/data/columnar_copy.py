"""A columnar copy of a data folder: each tar written again as Parquet, which is read faster."""

from collections.abc import Iterator
from pathlib import Path, PurePath

import ray

from boltzray.molecules.columns import COLUMNS, PREPARED, source_of, write_columns
from boltzray.molecules.shards import read_manifest, shard_sizes
from boltzray.molecules.storage import is_url, list_files, read_bytes, replacing
from boltzray.molecules.tars import read_shard

from ..runtime.cluster import ClusterConfig, cluster
from ..runtime.config import data_folder, write_json
from ..runtime.progress import say
from ..runtime.run_folder import RunFolder, sha256
from ..runtime.tasks import in_tasks
from .catalogue import (
    BAD_DATA,
    KnownPeptides,
    ShardStats,
    folder_temperature,
    frames_forcefield,
    inspect_shard,
    read_pdbs,
)
from .peptide_tables import Conditions, peptides_of

COPIED = ("pdbs/*/*.pdb", "pdb_tarfiles/*.tar", "trajectories_subsampled/*/*/*_subsampled.npz")


def write_columnar_copy(source: str, target: str, config: ClusterConfig) -> Path:
    """Tars → columns; a shard that was written whole is not written again."""
    folder = source if is_url(source) else str(data_folder(source))
    if folder == str(data_folder(target)):
        raise ValueError(f"{folder} holds the tars: give another out=")
    with RunFolder.open(target, "prepare", {}, source=folder) as run:  # a URL or an absolute path, not as typed
        return _copy_into(run, folder, config)


def _copy_into(run: RunFolder, folder: str, config: ClusterConfig) -> Path:
    out = run.path
    sizes, manifest = shard_sizes(folder), read_manifest(folder)
    if not all(path.endswith(".tar") for path in sizes):
        raise ValueError(f"{folder} is prepared already: give it to data.path=")
    (out / COLUMNS).mkdir(exist_ok=True)
    with run.track() as tracker, cluster(config):
        for path, relative in _small_files(folder):
            _copy(path, out / relative)
        temperature, forcefield = folder_temperature(folder), frames_forcefield(folder)
        peptides = peptides_of(read_pdbs(folder), Conditions(temperature_k=temperature, forcefield=forcefield))
        known = ray.put(KnownPeptides.of(peptides))
        facts = [manifest.get(PurePath(path).name, {}) for path in sizes]
        targets = [out / COLUMNS / f"{PurePath(path).stem}.parquet" for path in sizes]
        calls = [
            (known, path, size, str(target), str(fact.get("sha256", "")))
            for (path, size), target, fact in zip(sizes.items(), targets, facts, strict=True)
        ]
        stats: list[ShardStats] = in_tasks("prepare shards", _convert, calls)
        shards = {
            target.name: {
                "source": [PurePath(path).name, size],
                "samples": int(fact.get("samples", 0)),
                "sha256": sha256(target),
            }
            for target, (path, size), fact in zip(targets, sizes.items(), facts, strict=True)
        }
        about = {"source": folder, "temperature_k": temperature, "forcefield": forcefield}
        write_json(out / PREPARED, {**about, "shards": shards})
        problems = [problem for shard in stats for problem in shard.problems]
        (out / BAD_DATA).write_text("".join(f"{problem}\n" for problem in problems))
        frames = sum(shard.frames for shard in stats)
        tracker.log({"frames": frames, "bad_frames": len(problems)})
    bad = f"; {len(problems)} were bad (named in {out / BAD_DATA})" if problems else ""
    say(f"{frames} frames in {len(shards)} shards{bad}: {out}")
    return out


def _convert(known: KnownPeptides, path: str, size: int, target: str, sha256: str) -> ShardStats:
    """One tar → one file of columns, unless it is there already."""
    source = f"{PurePath(path).name} of {size} bytes"
    if source_of(Path(target)) != source:
        write_columns(Path(target), read_shard(path, known.n_atoms, sha256), source)
    return inspect_shard(target, 0, known, frozenset(known.n_atoms))


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
