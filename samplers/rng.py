"""Random streams keyed by their purpose, never by the process that draws from them.

The same (seed, stage, step, block) gives the same numbers on any number of actors, in any order of
completion.
"""

from enum import IntEnum

import numpy as np


class Stage(IntEnum):
    """Purpose of a stream; numbers from 16 up are free for callers."""

    PROPOSE = 0
    RESAMPLE = 1
    MOVE = 2


def generator(seed: int, stage: int, step: int = 0, block: int = 0) -> np.random.Generator:
    """Stream for everything in `samplers`: NumPy's PCG64, which uses all 128 bits of the key.

    Noise is drawn on the CPU and moved to the device of x, so that its bits do not depend on the device.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(int(stage), step, block))))
