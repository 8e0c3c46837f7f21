"""Import name of all folders of code: ``platform/`` (whose own name is the standard library's), and those beside it."""

from pathlib import Path

_root = Path(__file__).parent
__path__ = [str(_root / "platform"), str(_root)]
