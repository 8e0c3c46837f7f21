"""Particles in blocks of fixed size, in one process or on Ray actors.

The driver sees scalars only. Everything here that touches coordinates is a pure function of one block, and
its random stream is keyed by the block's index, so the result does not depend on where the blocks live.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .kernels import KernelInfo, hmc, mala, ula
from .rng import Stage, generator
from .types import Evaluate, FloatArray, IntArray, Particles, concatenate, evaluate_particles

Kernel = Literal["mala", "hmc", "ula"]


class Move(NamedTuple):
    """Order to move every particle `n_moves` times at λ; `exact` concerns ULA, `n_leapfrog` HMC."""

    step: int
    lam: float
    kernel: Kernel
    step_size: float
    n_moves: int
    n_leapfrog: int
    exact: bool


class MoveInfo(NamedTuple):
    """Statistics of a move, summed over moves and particles.

    `acceptance`: sum of acceptance probabilities over `n_proposals` proposals from particles that are alive;
    `log_w`: increments of the log-weights (n,), zeros but for ULA.
    """

    acceptance: float
    n_proposals: int
    n_failed: int
    n_evaluations: int
    log_w: FloatArray


class Population(Protocol):
    """n particles somewhere, in the order of their blocks."""

    def scalars(self) -> tuple[FloatArray, FloatArray]:
        """log_q and log_p (n,) at the present positions; log_p −inf for a failed conformation."""
        ...

    def resample(self, ancestors: IntArray) -> None:
        """Particle i becomes a copy of the present particle ancestors[i]."""
        ...

    def move(self, order: Move) -> MoveInfo:
        """Apply `move_block` to every block; infos merged by `merge_infos` in the order of the blocks."""
        ...


def move_block(block: Particles, evaluate: Evaluate, order: Move, seed: int, index: int) -> tuple[Particles, MoveInfo]:
    """Move the block number `index`: a pure function of its arguments, wherever it runs."""
    stream = generator(seed, Stage.MOVE, order.step, index)
    kernels: dict[str, Callable[..., tuple[Particles, KernelInfo]]] = {
        "mala": mala,
        "hmc": partial(hmc, n_leapfrog=order.n_leapfrog),
        "ula": partial(ula, exact=order.exact),
    }
    infos = []
    for _ in range(order.n_moves):
        alive = block.ok
        block, info = kernels[order.kernel](block, evaluate, order.lam, order.step_size, stream)
        infos.append(
            MoveInfo(
                acceptance=float(info.acceptance[alive].sum()),
                n_proposals=int(alive.sum()),
                n_failed=int(info.failed.sum()),
                n_evaluations=info.n_evaluations,
                log_w=info.log_w.cpu().numpy(),
            )
        )
    return block, _summed(infos, np.sum([info.log_w for info in infos], axis=0))


def merge_infos(infos: Sequence[MoveInfo]) -> MoveInfo:
    """Infos of all blocks, given in the order of the blocks: sums of floats depend on it."""
    return _summed(infos, np.concatenate([info.log_w for info in infos]))


def _summed(infos: Sequence[MoveInfo], log_w: FloatArray) -> MoveInfo:
    return MoveInfo(
        acceptance=sum(info.acceptance for info in infos),
        n_proposals=sum(info.n_proposals for info in infos),
        n_failed=sum(info.n_failed for info in infos),
        n_evaluations=sum(info.n_evaluations for info in infos),
        log_w=log_w,
    )


def gather_block(
    blocks: Mapping[int, Particles] | Sequence[Particles], ancestors: IntArray, block_size: int
) -> Particles:
    """The new block of particles `ancestors`, from those `blocks` (by index) that hold them."""
    sources, rows = np.divmod(ancestors, block_size)
    order = np.argsort(sources, kind="stable")
    parts = []
    for source in np.unique(sources):
        block = blocks[int(source)]
        index = torch.from_numpy(rows[order][sources[order] == source])
        parts.append(block.rows(index.to(block.x.device)))
    gathered = concatenate(parts)
    return gathered.rows(torch.from_numpy(np.argsort(order, kind="stable")).to(gathered.x.device))


class LocalPopulation:
    """A population in this process; `blocks` from a checkpoint continue without a new evaluation."""

    def __init__(self, blocks: Sequence[Particles], evaluate: Evaluate, seed: int) -> None:
        self.blocks, self.evaluate, self.seed = list(blocks), evaluate, seed

    @classmethod
    def start(cls, x: Tensor, evaluate: Evaluate, block_size: int, seed: int) -> "LocalPopulation":
        """Evaluate the proposals x (n, N, 3), block by block."""
        if x.ndim != 3 or len(x) == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}; give (particles, atoms, 3), not empty")
        x = x.detach()
        return cls([evaluate_particles(part, evaluate) for part in x.split(block_size)], evaluate, seed)

    def scalars(self) -> tuple[FloatArray, FloatArray]:
        """See `Population`."""
        return (
            torch.cat([block.log_q for block in self.blocks]).cpu().numpy(),
            torch.cat([block.log_p for block in self.blocks]).cpu().numpy(),
        )

    def resample(self, ancestors: IntArray) -> None:
        """See `Population`."""
        size = len(self.blocks[0].x)
        parts = [ancestors[start : start + size] for start in range(0, len(ancestors), size)]
        self.blocks = [gather_block(self.blocks, part, size) for part in parts]

    def move(self, order: Move) -> MoveInfo:
        """See `Population`."""
        moved = [move_block(b, self.evaluate, order, self.seed, i) for i, b in enumerate(self.blocks)]
        self.blocks = [block for block, _ in moved]
        return merge_infos([info for _, info in moved])
