"""The public layout on disk: tars of single frames, reference trajectories, PDB files.

webdatasets/single_frames/{0000..}.tar    members SEQ_FRAME.bin: float32, little-endian, (N, 3), nm
trajectories_subsampled/SPLIT/LAA/SEQ_subsampled.npz    positions (T, N, 3), float32, nm; may hold more, of which ours
    have `atoms` (N,) and conditions, and those of replica exchange `log_weights` (T,) and `run_lengths`
pdbs/SPLIT/SEQ.pdb
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .columns import column_sizes, read_prepared
from .references import check_letters
from .storage import is_url, join, list_files, read_bytes, replacing

FRAMES = Path("webdatasets", "single_frames")
CHUNK = 10_000


def shard_sizes(data_dir: str | Path) -> dict[str, int]:
    """Bytes of each tar of a data folder or URL, or of each shard of columns, in order of name.

    Raises: ValueError when there is none.
    """
    folder = join(data_dir, *FRAMES.parts)
    shards = list_files(folder, "*.tar")
    if not shards and read_prepared(data_dir):
        return column_sizes(data_dir)
    if not shards:
        where = folder if is_url(folder) else Path(folder).absolute()
        raise ValueError(f"no .tar in {where}; run the simulate job, or point data.path elsewhere")
    return shards


def write_shards(
    data_dir: str | Path,
    trajectories: Mapping[str, ArrayLike | Iterable[ArrayLike]],
    seed: int,
    frames_per_shard: int,
) -> list[Path]:
    """Write all frames, shuffled over all peptides, and a manifest; replaces what it wrote before.

    A trajectory is an array (T, N, 3), or an iterable of such arrays, in nm. Arrays that are mapped from files
    (`np.load(mmap_mode="r")`) stay there: a frame is read when it is written.
    At any moment of a crash the manifest names every tar that is ours, so that writing again mends it.

    Raises: ValueError for bad trajectories, and when the folder holds tars from elsewhere.
    """
    if frames_per_shard < 1:
        raise ValueError(f"frames_per_shard must be 1 or more, got {frames_per_shard}")
    frames = {sequence: _arrays(sequence, x) for sequence, x in trajectories.items()}
    index = [
        (x, i, f"{sequence}_{number:06d}.bin") for sequence, xs in frames.items() for number, x, i in _numbered(xs)
    ]
    if not index:
        raise ValueError("no frames to write; give at least one trajectory")
    folder = Path(data_dir) / FRAMES
    folder.mkdir(parents=True, exist_ok=True)
    ours = set(read_manifest(data_dir))
    foreign = sorted(p.name for p in folder.glob("*.tar") if p.name not in ours)
    if foreign:
        raise ValueError(f"{folder} holds tars written by someone else ({foreign[0]}, ...); choose another data_dir")

    order = np.random.default_rng(seed).permutation(len(index))
    manifest: dict[str, dict[str, Any]] = {}
    for start in range(0, len(order), frames_per_shard):
        chosen = [index[i] for i in order[start : start + frames_per_shard]]
        tar = _tar((name, np.asarray(x[i], "<f4").tobytes()) for x, i, name in chosen)
        name = f"{len(manifest):04d}.tar"
        # Renamed after the manifest is there. The same name each time: what a killed writer left is overwritten.
        (folder / f"{name}.tmp").write_bytes(tar)
        manifest[name] = {
            "samples": len(chosen),
            "bytes": len(tar),
            "sha256": hashlib.sha256(tar).hexdigest(),
        }
    for stale in ours - set(manifest):
        (folder / stale).unlink(missing_ok=True)
    with replacing(folder / "manifest.json") as temporary:
        temporary.write_text(json.dumps({"seed": seed, "shards": manifest}, indent=1) + "\n")
    return [(folder / f"{name}.tmp").replace(folder / name) for name in manifest]


def read_manifest(data_dir: str | Path) -> dict[str, dict[str, Any]]:
    """Samples, bytes and sha256 of each shard by file name; empty without a manifest (public data).

    Raises: ValueError when the file is no manifest of ours.
    """
    path = join(data_dir, *FRAMES.parts, "manifest.json")
    try:
        text = read_bytes(path)
    except FileNotFoundError:
        return {}
    try:
        shards = json.loads(text)["shards"]
    except (ValueError, KeyError, TypeError):
        shards = None
    if not isinstance(shards, dict) or not all(re.fullmatch(r"\d{4,}\.tar", name) for name in shards):
        raise ValueError(f"{path} is not a manifest of shards; remove it, or choose another data_dir")
    return shards


def _arrays(sequence: str, trajectory: ArrayLike | Iterable[ArrayLike]) -> list[NDArray[Any]]:
    """The arrays of a trajectory. Raises: ValueError unless all are (T, N, 3), of the same atoms and finite."""
    check_letters(sequence)
    parts = [trajectory] if isinstance(trajectory, np.ndarray) else trajectory
    arrays = [np.asarray(part) for part in parts]  # type: ignore[union-attr]
    for x in arrays:
        if x.ndim != 3 or x.shape[1:] != (arrays[0].shape[1], 3) or not _finite(x):
            raise ValueError(f"{sequence}: positions of shape {x.shape} must be (frames, atoms, 3) and finite")
    return arrays


def _finite(positions: NDArray[Any]) -> bool:
    """Check some frames at a time: those of a file are not to be in memory all at once."""
    return all(np.isfinite(positions[i : i + CHUNK]).all() for i in range(0, len(positions), CHUNK))


def _numbered(arrays: Sequence[NDArray[Any]]) -> Iterator[tuple[int, NDArray[Any], int]]:
    """Each frame of the arrays: its number among all, its array, and where it is in that."""
    return ((number, *frame) for number, frame in enumerate((x, i) for x in arrays for i in range(len(x))))


def _tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A ustar archive without times or owners: the same frames give the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, payload in members:
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    return buffer.getvalue()
