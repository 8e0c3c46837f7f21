"""Networks and densities. Runs with torch and numpy alone."""

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
    "load",
    "locate",
    "log_prob_and_gradient",
    "save",
    "to_public",
]
