"""Networks and densities. Runs with torch and numpy alone."""

from models.config import FlowConfig
from models.density import log_prob_and_gradient
from models.flow import Conditioning, Flow
from models.hub import locate
from models.public import to_public
from models.tables import PeptideTables
from models.weights import load, save

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
