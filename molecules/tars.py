"""Reading the tars of frames that a flow is trained on.

They come from anywhere: nothing is unpacked to disk, and bad content is a named problem, not an exception.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .storage import read_bytes

BLOCK = 512
CHANGED = "damaged: its bytes are not those that were written (sha256 of the manifest): copy or write it again"
_MEMBER = re.compile(r"(?:\./)?(([A-Za-z0-9-]+)_[^/\\]*)\.bin")
_PAX_PATH = re.compile(rb"\d+ path=([^\n]*)\n")
_PROBLEM = re.compile(r"""(.*?): (?:('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"): )?(.*)""", re.DOTALL)
_MISSING = re.compile(r"(\d+) of \d+ frames missing")


class Frame(NamedTuple):
    """One conformation. Shape: positions (N, 3) float32, nm; read-only, a view on the bytes of the file."""

    key: str
    sequence: str
    positions: NDArray[np.float32]


class Problem(NamedTuple):
    """Bad content of a shard, which costs `frames`. `member`: its name, quoted; empty for the whole file."""

    shard: str
    member: str
    reason: str
    frames: int = 1

    def __str__(self) -> str:
        return ": ".join(part for part in self[:3] if part)

    @classmethod
    def missing(cls, shard: str, expected: int, found: int) -> "Problem":
        """A shard that has fewer members than `expected`."""
        return cls(shard, "", f"{expected - found} of {expected} frames missing", expected - found)

    @classmethod
    def parse(cls, line: str) -> "Problem":
        """Return the problem whose `str` is `line`: shards of columns and training checkpoints hold lines."""
        match = _PROBLEM.fullmatch(line)
        shard, member, reason = match.groups("") if match else ("", "", line)
        missing = _MISSING.fullmatch(reason)
        return cls(shard, member, reason, int(missing[1]) if missing else 1)


def quoted(name: str) -> str:
    """The name of a member on one line, for a problem: it comes from elsewhere, and may hold anything."""
    return ascii(name[:120]) if name else ""


class ShardContent(NamedTuple):
    """Frames of a shard in file order, and a problem for each thing that could not be read."""

    frames: list[Frame]
    problems: list[Problem]


def changed_bytes(shard: str, data: bytes, sha256: str) -> Problem | None:
    """The problem of a shard whose bytes are not those that were written; no `sha256`, no problem."""
    if not sha256 or hashlib.sha256(data).hexdigest() == sha256:
        return None
    return Problem(shard, "", CHANGED)


def read_shard(path: str | Path, n_atoms: Mapping[str, int], sha256: str = "") -> ShardContent:
    """Read every sound frame of a tar, which may lie behind a URL.

    A damaged header costs its member: reading goes on at the next sound one. With `sha256`, that of its bytes, any
    damage costs the whole shard.

    Raises: OSError when the file cannot be opened; never for what is in it.
    """
    data, shard = read_bytes(path), str(path).rsplit("/", 1)[-1]
    content = ShardContent([], [])
    if changed := changed_bytes(shard, data, sha256):
        return ShardContent([], [changed])

    def problem(member: str, reason: str) -> None:
        content.problems.append(Problem(shard, quoted(member), reason))

    sums, odd = _scan(data)
    values = np.frombuffer(data, "<f4", count=len(data) // 4)
    end, position, lost, long_name = len(data.rstrip(b"\0")), 0, False, ""
    while position < end:
        header, block = data[position : position + BLOCK], position // BLOCK
        size = _member_size(header, sums[block]) if block < len(sums) else None
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
            finite = position <= BLOCK * len(sums) and odd[block + 1] == odd[position // BLOCK]
            reason = add_frame(content.frames, values, start, size, name, kind, n_atoms, finite)
            if reason:
                problem(name, reason)
    if not lost and len(data) - position < BLOCK:
        problem("", "truncated: no end-of-archive mark" if data else "empty file: not a tar")
    return content


def add_frame(
    frames: list[Frame],
    values: NDArray[np.float32],
    start: int,
    size: int,
    name: str,
    kind: bytes,
    n_atoms: Mapping[str, int],
    finite: bool,
) -> str:
    """Append the member's frame and return "", or return why it is bad; `finite` if all its blocks are."""
    match = _MEMBER.fullmatch(name)
    if match is None or kind not in b"0\0":
        return "not a plain file called SEQUENCE_FRAME.bin"
    key, sequence = match.groups()
    n = n_atoms.get(sequence)
    if n is None:
        return f"unknown sequence {sequence[:40]}"
    if size != n * 12:
        return f"{size} bytes, but a frame of {sequence} ({n} atoms) has {n * 12}"
    flat = values[start // 4 : start // 4 + 3 * n]
    if not finite and not np.isfinite(flat).all():
        return "NaN or infinite coordinates"
    frames.append(Frame(key, sequence, flat.reshape(n, 3)))
    return ""


def _scan(data: bytes) -> tuple[list[int], list[int]]:
    """Sum of each whole block's bytes; and how many blocks before each hold numbers that are not finite.

    All at once: block by block it would cost more than all the rest of reading.
    """
    blocks = np.frombuffer(data, np.uint8, count=len(data) // BLOCK * BLOCK).reshape(-1, BLOCK)
    with np.errstate(all="ignore"):
        odd = ~np.isfinite(blocks.view("<f4").sum(axis=1))
    return blocks.sum(axis=1, dtype=np.uint32).tolist(), [0, *np.cumsum(odd).tolist()]


def _member_size(header: bytes, total: int) -> int | None:
    """Payload bytes, or None unless the header's checksum holds; `total` is the sum of its bytes."""
    try:
        checksum = int(header[148:156].strip(b"\0 "), 8)
        size = int(header[124:136].strip(b"\0 ") or b"0", 8)
    except ValueError:
        return None
    return size if total - sum(header[148:156]) + 256 == checksum and size >= 0 else None


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")
