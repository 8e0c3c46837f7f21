"""Reading the tars of frames that a flow is trained on.

They come from anywhere: nothing is unpacked to disk, and bad content is a named problem, not an exception.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK = 512
_MEMBER = re.compile(r"(?:\./)?(([A-Za-z]+)_[^/\\]*)\.bin")
_PAX_PATH = re.compile(rb"\d+ path=([^\n]*)\n")


class Frame(NamedTuple):
    """One conformation. Shape: positions (N, 3) float32, nm; read-only, a view on the bytes of the file."""

    key: str
    sequence: str
    positions: NDArray[np.float32]


class ShardContent(NamedTuple):
    """What could be read, in file order, and a line (file, member, reason) for each thing that could not."""

    frames: list[Frame]
    problems: list[str]


def read_shard(path: str | Path, n_atoms: Mapping[str, int]) -> ShardContent:
    """Read every sound frame of a tar.

    A damaged header costs its member: reading goes on at the next sound one.

    Raises: OSError when the file cannot be opened; never for what is in it.
    """
    path = Path(path)
    data = path.read_bytes()
    content = ShardContent([], [])

    def problem(member: str, reason: str) -> None:
        content.problems.append(f"{path.name}: {member[:120]!a}: {reason}" if member else f"{path.name}: {reason}")

    end, position, lost, long_name = len(data.rstrip(b"\0")), 0, False, ""
    while position < end:
        header = data[position : position + BLOCK]
        size = _member_size(header)
        position += BLOCK
        if size is None:
            if not lost:
                problem("", f"no tar header at byte {position - BLOCK}: not a tar, truncated, or damaged")
            lost = True
            continue
        lost, start = False, position
        name, long_name = long_name or _text(header[:100]), ""
        position += -(-size // BLOCK) * BLOCK
        if start + size > len(data):
            problem(name, "truncated: the file ends inside this member")
            return content
        kind = header[156:157]
        if kind in b"xL":  # extended headers, which may carry the name of the next member
            found = _PAX_PATH.search(data, start, start + size) if kind == b"x" else None
            long_name = _text(found[1] if found else data[start : start + size] if kind == b"L" else b"")
        elif kind not in b"g5":  # global headers and folders say nothing about frames
            reason = _add_frame(content.frames, data, start, size, name, kind, n_atoms)
            if reason:
                problem(name, reason)
    if not lost and len(data) - position < BLOCK:
        problem("", "truncated: no end-of-archive mark" if data else "empty file: not a tar")
    return content


def _add_frame(
    frames: list[Frame],
    data: bytes,
    start: int,
    size: int,
    name: str,
    kind: bytes,
    n_atoms: Mapping[str, int],
) -> str:
    """Append the member's frame, or say why not."""
    match = _MEMBER.fullmatch(name)
    if match is None or kind not in b"0\0":
        return "not a plain file called SEQUENCE_FRAME.bin"
    key, sequence = match.groups()
    n = n_atoms.get(sequence)
    if n is None:
        return f"unknown sequence {sequence[:40]}"
    if size != n * 12:
        return f"{size} bytes, but a frame of {sequence} ({n} atoms) has {n * 12}"
    flat = np.frombuffer(data, dtype="<f4", count=3 * n, offset=start)
    with np.errstate(all="ignore"):
        finite = math.isfinite(flat.sum())
    if not finite:
        return "NaN or infinite coordinates"
    frames.append(Frame(key, sequence, flat.reshape(n, 3)))
    return ""


def _member_size(header: bytes) -> int | None:
    """Payload bytes, or None unless the header's checksum holds."""
    try:
        checksum = int(header[148:156].strip(b"\0 "), 8)
        size = int(header[124:136].strip(b"\0 ") or b"0", 8)
    except ValueError:
        return None
    sound = len(header) == BLOCK and sum(header) - sum(header[148:156]) + 256 == checksum and size >= 0
    return size if sound else None


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")
