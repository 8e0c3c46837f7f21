"""Trajectory files written by mdtraj, wherever they lie: its writers of XTC, TRR and DCD take ASCII paths only.

Shapes: T frames, N atoms. Units: nm.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import mdtraj
import numpy as np
from numpy.typing import ArrayLike
from openmm.app import Topology

from .storage import replacing

TrajectoryFormat = Literal["xtc", "trr", "dcd"]
FORMATS: tuple[TrajectoryFormat, ...] = get_args(TrajectoryFormat)


def save_trajectory(path: Path, positions_nm: ArrayLike, topology: Topology) -> None:
    """Write frames in the format that the path ends in, whole or not at all.

    TRR keeps float32 positions to the last bit; DCD keeps them in Å, to 1e-7 nm (1e-4 kT); XTC rounds to 0.001 nm,
    which moves energies by about 1 kT. Of AA, and of ARIP: 0.8 and 1.5 kT in the root mean square, 0.3 and 1.1 upwards.

    Shape: (T, N, 3).
    Raises: ValueError for another ending.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise ValueError(f"{path.name}: a trajectory ends in .{', .'.join(FORMATS)}")
    frames = mdtraj.Trajectory(np.asarray(positions_nm, np.float32), mdtraj.Topology.from_openmm(topology))
    with replacing(path) as temporary:
        if str(temporary).isascii():
            getattr(frames, f"save_{kind}")(str(temporary))
            return
        with ascii_folder() as folder:
            written = folder / f"frames.{kind}"
            getattr(frames, f"save_{kind}")(str(written))
            shutil.copyfile(written, temporary)  # may be another file system: `replacing` renames within the folder


@contextmanager
def ascii_folder() -> Iterator[Path]:
    """Make a temporary folder whose path is ASCII.

    Raises: ValueError where there is none to make it in.
    """
    for parent in (tempfile.gettempdir(), "/tmp", "/dev/shm", "/var/tmp"):
        if parent.isascii() and os.access(parent, os.W_OK | os.X_OK):
            with tempfile.TemporaryDirectory(dir=parent) as folder:
                yield Path(folder)
            return
    raise ValueError("trajectory files need a temporary folder whose path is ASCII: set TMPDIR to one")
