"""Shards of frames as columns: a tar that was read once, in a form that is read faster.

columnar/0000.parquet …    `key`, `sequence`, `positions` (float32, little-endian, (N, 3), nm, as bytes); what was bad
                           in the tar is in the file's metadata
prepared.json              which tars they were made of; written last
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .distance_limits import DistanceLimits
from .storage import join, list_files, read_bytes, replacing
from .tars import Problem, ShardContent, add_frame, changed_bytes, quoted, read_shard

COLUMNS = "columnar"
PREPARED = "prepared.json"
IMPLAUSIBLE = "a bond or an angle that is torn or crushed"
_SCHEMA = pa.schema(
    {"key": pa.string(), "sequence": pa.dictionary(pa.int32(), pa.string()), "positions": pa.large_binary()}
)


def write_columns(path: Path, content: ShardContent, source: str) -> None:
    """Write what was read from a tar, whole or not at all; `source` says which tar, and in what state."""
    arrays = [
        pa.array([frame.key for frame in content.frames], pa.string()),
        pa.array([frame.sequence for frame in content.frames], pa.string()).dictionary_encode(),
        pa.array([frame.positions.tobytes() for frame in content.frames], pa.large_binary()),
    ]
    schema = _SCHEMA.with_metadata({"problems": json.dumps([str(p) for p in content.problems]), "source": source})
    with replacing(path) as temporary:
        # Coordinates have no patterns to compress, and no two are alike.
        pq.write_table(
            pa.table(arrays, schema=schema),
            temporary,
            compression="none",
            use_dictionary=["sequence"],
            write_statistics=False,
            row_group_size=max(1, len(content.frames)),
        )


def source_of(path: Path) -> str:
    """The `source` of a shard of columns, empty if there is none that can be read."""
    try:
        return (pq.read_schema(path).metadata or {}).get(b"source", b"").decode()
    except (OSError, pa.ArrowException):
        return ""


def read_columns(path: str | Path, n_atoms: Mapping[str, int], sha256: str = "") -> ShardContent:
    """The frames of a shard of columns, checked as those of a tar are, and the problems that its tar had.

    Raises: OSError when the file cannot be opened; never for what is in it.
    """
    name, data = str(path).rsplit("/", 1)[-1], read_bytes(path)
    if changed := changed_bytes(name, data, sha256):
        return ShardContent([], [changed])
    try:
        table = pq.read_table(pa.BufferReader(data), columns=["key", "positions"])
        lines = json.loads((table.schema.metadata or {})[b"problems"])
        content = ShardContent([], [Problem.parse(line) for line in lines])
        keys, positions = table["key"].to_pylist(), table["positions"].combine_chunks()
        _, ends, values = positions.buffers()
        offsets = np.frombuffer(ends, np.int64)[positions.offset : positions.offset + len(keys) + 1]
        flat = np.frombuffer(values, "<f4", count=values.size // 4)
        if (offsets % 12).any():
            raise ValueError("positions are no frames")
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no shard of columns, or damaged: {' '.join(str(error).split())[:200]}"
        return ShardContent([], [Problem(name, "", reason)])
    finite = bool(np.isfinite(flat).all())
    for key, start, end in zip(keys, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        reason = add_frame(content.frames, flat, start, end - start, f"{key}.bin", b"0", n_atoms, finite)
        if reason:
            content.problems.append(Problem(name, quoted(key), reason))
    return content


def read_frames(
    path: str | Path, n_atoms: Mapping[str, int], limits: Mapping[str, DistanceLimits] | None = None, sha256: str = ""
) -> ShardContent:
    """The plausible frames of a shard of either kind: see `read_shard`, `read_columns` and `leave_out`.

    `sha256`: of its bytes, where that is known and is to be checked.
    """
    read = read_columns if str(path).endswith(".parquet") else read_shard
    return leave_out(read(path, n_atoms, sha256), str(path).rsplit("/", 1)[-1], limits or {})


def leave_out(content: ShardContent, shard: str, limits: Mapping[str, DistanceLimits]) -> ShardContent:
    """Leave out frames whose name was there before, and those with distances beyond the limits of their peptide."""
    rows: dict[str, list[int]] = {}
    for row, frame in enumerate(content.frames):
        if frame.sequence in limits:
            rows.setdefault(frame.sequence, []).append(row)
    reasons: dict[int, str] = {}
    for sequence, own in rows.items():
        broken = limits[sequence].broken(np.stack([content.frames[row].positions for row in own]))
        reasons |= {own[i]: IMPLAUSIBLE for i in np.flatnonzero(broken)}
    if len({frame.key for frame in content.frames}) < len(content.frames):
        seen: set[str] = set()
        for row, frame in enumerate(content.frames):
            if frame.key in seen:
                reasons.setdefault(row, "given twice")
            seen.add(frame.key)
    if not reasons:
        return content
    problems = [Problem(shard, quoted(content.frames[row].key), reasons[row]) for row in sorted(reasons)]
    kept = [frame for row, frame in enumerate(content.frames) if row not in reasons]
    return ShardContent(kept, content.problems + problems)


def read_prepared(data_dir: str | Path) -> dict[str, Any]:
    """Return the content of `prepared.json`, empty where `prepare` has not finished."""
    try:
        return dict(json.loads(read_bytes(join(data_dir, PREPARED))))
    except FileNotFoundError:
        return {}


def column_sizes(data_dir: str | Path) -> dict[str, int]:
    """Bytes of each shard of columns of a prepared folder or URL, in order of name.

    Raises: ValueError when it is not the one that was prepared.
    """
    found = list_files(join(data_dir, COLUMNS), "*.parquet")
    if sorted(path.rsplit("/", 1)[-1] for path in found) != sorted(read_prepared(data_dir)["shards"]):
        raise ValueError(
            f"{join(data_dir, COLUMNS)} lacks shards, or has others than {PREPARED} says: prepare it again"
        )
    return found
