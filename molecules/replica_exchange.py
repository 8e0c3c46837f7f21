"""A ladder of replica exchange on disk: its settings, its temperatures, and the chunks that it is made of.

A ladder has R rungs, temperatures T_0 < … < T_{R−1}; files hold configurations by rung. A walker is a configuration that
moves through the rungs; walker w starts on rung w.
"""

import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .runs import MDConfig, chunk_path, run_name
from .storage import replacing

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ExchangeConfig:
    """Temperature replica exchange: a geometric ladder from md.temperature_k to at least about `max_temperature_k`.

    Without `temperatures_k` a pilot of `pilot_ps` chooses the number of rungs such that neighbours swap at about
    `swap_rate`. They try to every `exchange_ps`. `rung`: the one whose temperature references and shards are of.
    """

    max_temperature_k: float = 600.0
    temperatures_k: tuple[float, ...] | None = None
    swap_rate: float = 0.3
    pilot_ps: float = 10.0
    exchange_ps: float = 0.1
    rung: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class LadderTrajectory:
    """One ladder of replica exchange: F frames of R rungs every `interval_ps`, and E attempts to swap.

    `energy_kT` is in kT of the lowest rung. `walkers[e, r]`: walker on rung r after attempt e, of which there are E / F
    a frame; frame f is taken after attempt (f + 1) E / F − 1. Attempt e is between rungs r and r + 1 of r ≡ e mod 2.

    Shape: temperatures_k R of them, positions_nm (F, R, N, 3), energy_kT (F, R), walkers (E, R).
    """

    temperatures_k: tuple[float, ...]
    positions_nm: npt.NDArray[np.float32]
    energy_kT: Floats
    walkers: npt.NDArray[np.uint8]
    interval_ps: float
