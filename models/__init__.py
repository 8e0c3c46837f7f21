"""Networks and densities. Runs with torch and numpy alone.

Names are resolved on first use: data workers need a module of this room, but not torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import checkpoint
    from .checkpoint import load, save
    from .conditioning import Conditioning
    from .config import FlowConfig
    from .density import log_prob_and_gradient
    from .flow import Flow
    from .hub import locate
    from .public import to_public
    from .tables import PeptideTables

__all__ = [
    "Conditioning",
    "Flow",
    "FlowConfig",
    "PeptideTables",
    "checkpoint",
    "load",
    "locate",
    "log_prob_and_gradient",
    "save",
    "to_public",
]

_HOME = {
    "Conditioning": ".conditioning",
    "Flow": ".flow",
    "FlowConfig": ".config",
    "PeptideTables": ".tables",
    "load": ".checkpoint",
    "locate": ".hub",
    "log_prob_and_gradient": ".density",
    "save": ".checkpoint",
    "to_public": ".public",
}


def __getattr__(name: str) -> Any:
    if name == "checkpoint":
        return import_module(".checkpoint", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)
