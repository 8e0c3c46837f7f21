"""Import name of the folder ``platform/``, whose own name belongs to the standard library."""

from pathlib import Path

__path__ = [str(Path(__file__).parent / "platform")]
