"""The inverse of a whole flow for one condition, for batches of any size.

Cast and packed weights, modulations by token and, on CUDA, recorded graphs are prepared once and kept here. The same
batch of latents gives the same bits in any process and after any other batches.

Shapes: B samples, T tokens of D coordinates.
"""

import warnings

import torch
from torch import Tensor

from .conditioning import Decode

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
    """Decoding of latents for one condition, fit for batches of any size.

    `run` is a pure function of the latents, prepared for one precision of matrix products, keys and values: `float32`
    leaves the flow's own dtype (float64 too), `bf16` halves it. What it returns belongs together in either. A batch
    that the device's memory does not hold is split, unless its rows have conditions of their own (`alone=False`). With
    `records` (on CUDA) the whole is a recorded graph, one for each batch size; where recording fails, it runs as usual.
    """

    def __init__(self, run: Decode, *, alone: bool, records: bool) -> None:
        self.run, self.alone, self.records = run, alone, records
        self.graphs = dict[int, Decode]()

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Decode latents. Shape: z (B, T, D) → (B, T, D), and a number of each row (B,)."""
        with torch.inference_mode(), torch.autocast(z.device.type, enabled=False):
            run = self._recorded if self.records else self.run
            x, total = split_on_oom(run, z) if self.alone else self.run(z)
        return x.clone(), total.clone()  # outside of inference mode, tensors that autograd accepts

    def _recorded(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if self.records and len(z) not in self.graphs:
            if len(self.graphs) == MAX_GRAPHS:
                self.graphs.pop(next(iter(self.graphs)))
            try:
                self.graphs[len(z)] = _record(self.run, z)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.records = False
                warnings.warn(f"no CUDA graph could be recorded, decoding is slower: {error}", stacklevel=2)
        return self.graphs.get(len(z), self.run)(z)


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
