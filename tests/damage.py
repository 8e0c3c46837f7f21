"""Damage to files, and what a command may make of it: the bits of an undisturbed run, or one line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

KINDS = ("cut off", "emptied", "one bit flipped", "another one's")


def damage(path: Path, kind: str, other: bytes, seed: int = 0) -> None:
    """Damage a file; `other`: what a file of this name holds in another run."""
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    if kind == "cut off":
        content = content[: len(content) // 2]
    elif kind == "emptied":
        content = bytearray()
    elif kind == "one bit flipped":
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    else:
        content = bytearray(other)
    path.write_bytes(content)


def outcome(command: Callable[[], Path], check: Callable[[Path], None], folder: Path) -> str:
    """Run a command on a damaged folder, and say what came of it; `check` compares its results with undisturbed ones.

    Any error but one line with the path of a file in the folder is raised.
    """
    try:
        out = command()
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        text = str(error)
        assert str(folder) in text, text
        assert len(text.splitlines()) == 1, text
        return "one line"
    check(out)
    return "same bits"
