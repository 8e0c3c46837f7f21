"""The inverse of a whole flow for one condition, for batches of any size.

Cast and packed weights, modulations by token and, on CUDA, recorded graphs are prepared once and kept here. The same
batch of latents gives the same bits in any process and after any other batches.

Shapes: B samples, T tokens of D coordinates.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from .block import Block
from .block_decoder import BlockDecoder
from .conditioning import Conditioning, Decode, Precision
from .layers import reorder

MAX_GRAPHS = 2  # a block of samples, and the last one, which is shorter


def split_on_oom(run: Decode, z: Tensor) -> tuple[Tensor, Tensor]:
    """`run(z)`, in halves where the device's memory does not hold the batch; raises when one row is too much.

    Samples do not depend on each other, but sums of another order round differently: a batch that had to be split
    agrees with the whole one to rounding, not in its bits.
    """
    try:
        return run(z)
    except torch.OutOfMemoryError:
        if len(z) < 2:
            raise
    # Outside the handler, so that the failed attempt's tensors are gone.
    if z.is_cuda:
        torch.cuda.empty_cache()
    parts = [split_on_oom(run, half) for half in z.tensor_split(2)]
    return torch.cat([x for x, _ in parts]), torch.cat([logdet for _, logdet in parts])


class Decoder:
    """Latents → coordinates for one condition, in one precision.

    `precision` is that of matrix products, keys and values: `float32` leaves the flow's own dtype (float64 too),
    `bf16` halves it. Coordinates and log-determinants have the latents' dtype; the log-determinant is exact for the
    coordinates that come with it. On CUDA the whole inverse is a recorded graph, one for each batch size; where
    recording fails, it runs as usual.
    """

    def __init__(self, blocks: Sequence[Block], c: Conditioning, precision: Precision) -> None:
        if precision not in ("float32", "bf16"):
            raise ValueError(f"precision={precision!r} is unknown: choose float32 or bf16")
        weight = blocks[0].proj_in.weight
        dtype = torch.bfloat16 if precision == "bf16" else weight.dtype
        self.c, self.graphs = c, dict[int, Decode]()
        self.records = weight.is_cuda
        with torch.inference_mode():
            self.blocks = [
                BlockDecoder(block, modulations, c.mask, c.order.shape[-1], dtype, coordinate_masks)
                for block, modulations, coordinate_masks in zip(blocks, c.modulations, c.coordinate_masks, strict=True)
            ]

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Decode latents. Shape: z (B, T, D) → x (B, T, D), log|det ∂x/∂z| (B,)."""
        with torch.inference_mode(), torch.autocast(z.device.type, enabled=False):
            # A batch of several peptides cannot be split: each row has its own condition.
            run = self._recorded if self.records else self._run
            x, logdet = split_on_oom(run, z) if self.c.order.shape[1] == 1 else self._run(z)
        return x.clone(), logdet.clone()  # outside of inference mode, tensors that autograd accepts

    def _run(self, z: Tensor) -> tuple[Tensor, Tensor]:
        logdet = z.new_zeros(len(z))
        for k in reversed(range(len(self.blocks))):
            u, scales = self.blocks[k](reorder(z, self.c.order[k]))
            z = reorder(u, self.c.inverse_order[k])
            logdet = logdet + scales
        return z, logdet

    def _recorded(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if self.records and len(z) not in self.graphs:
            if len(self.graphs) == MAX_GRAPHS:
                self.graphs.pop(next(iter(self.graphs)))
            try:
                self.graphs[len(z)] = _record(self._run, z)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.records = False
                warnings.warn(f"no CUDA graph could be recorded, decoding is slower: {error}", stacklevel=2)
        return self.graphs.get(len(z), self._run)(z)


def _record(run: Decode, example: Tensor) -> Decode:
    """`run` as a CUDA graph, for latents of the example's shape."""
    z = example.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries allocate their workspaces on first use, which a graph cannot hold
        run(z)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x, logdet = run(z)

    def replay(latents: Tensor) -> tuple[Tensor, Tensor]:
        z.copy_(latents)
        graph.replay()
        return x.clone(), logdet.clone()

    return replay
