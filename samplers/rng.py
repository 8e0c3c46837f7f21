"""Random streams keyed by what they are used for, never by who draws from them.

The same (seed, stage, step, block) gives the same numbers on any number of actors, in any order of
completion.
"""

from enum import IntEnum

import numpy as np
import torch


class Stage(IntEnum):
    """What a stream is for; numbers from 16 up are free for callers."""

    PROPOSE = 0
    RESAMPLE = 1
    MOVE = 2


def _key(seed: int, stage: int, step: int, block: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(int(stage), step, block))


def generator(seed: int, stage: int, step: int = 0, block: int = 0) -> np.random.Generator:
    """Stream for everything in `samplers`: NumPy's PCG64, which uses all 128 bits of the key.

    Noise is drawn on the CPU and moved to the device of x, so that its bits do not depend on the device.
    """
    return np.random.Generator(np.random.PCG64(_key(seed, stage, step, block)))


def torch_generator(seed: int, stage: int, step: int = 0, block: int = 0) -> torch.Generator:
    """Stream for code that needs a `torch.Generator`, such as `flow.sample`.

    PyTorch's CPU generator is seeded by 32 bits only, so two of 10⁵ such streams may coincide: good for the
    thousands of blocks of one proposal, not for the millions of (step, block) pairs of a long run.
    """
    word = int(_key(seed, stage, step, block).generate_state(1)[0])
    return torch.Generator().manual_seed(word)
