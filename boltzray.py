"""Name of all folders of code: ``platform/`` (whose own name is the standard library's), and those beside it.

And the library: ``boltzray.sample("DG")`` and its siblings, which import what they need when they are first named.
"""

from pathlib import Path
from typing import Any

_root = Path(__file__).parent
_installed = _root / "boltzray"  # of a wheel: all folders in one
__path__ = [str(_installed)] if _installed.is_dir() else [str(_root / "platform"), str(_root)]

_HOME = {
    "sample": "library",
    "finetune": "library",
    "simulate": "library",
    "energy": "library",
    "load": "ensemble",
    "Ensemble": "ensemble",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOME:
        raise AttributeError(f"module 'boltzray' has no attribute {name!r}: it has {', '.join(_HOME)}")
    from importlib import import_module

    return getattr(import_module(f"boltzray.{_HOME[name]}"), name)


def _version() -> str:
    """Version of what is imported: a checkout's own, whatever is installed beside it."""
    from importlib.metadata import version

    project = _root / "pyproject.toml"
    if _installed.is_dir() or not project.exists():
        return version("boltzray")
    import tomllib

    return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])


def __dir__() -> list[str]:
    return [*globals(), *_HOME, "__version__"]
