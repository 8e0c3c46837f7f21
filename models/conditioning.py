"""The part of a flow that depends on the peptide alone, computed once for many conformations.

Shapes: P conditions (1 or B), T tokens, C channels, K blocks; see `flow`.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from .internal_coordinates import InternalTables, PlacedAtoms
from .layers import Modulation

Precision = Literal["float32", "bf16"]
Decode = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Conditioning:
    """The part of the network that depends on the peptide alone.

    Shape: order, inverse_order (K, P, T); mask (P, T) of real tokens, None when there is no padding; n_atoms (P,);
    modulations: for each block, for each layer, tensors (P, T, C) in the block's ordering, or None without condition;
    of internal coordinates, the embeddings of each atom as the last and as the next one (P, N, C).
    conditions: with activation checkpointing each block's condition (P, T, C), for forward passes; no modulations.
    internal, placed: of internal coordinates, z-matrices, and the same in the order of placement (the only ordering).
    decoders: the inverse, prepared on its first use, for each precision and temperature.
    """

    order: Tensor
    inverse_order: Tensor
    mask: Tensor | None
    n_atoms: Tensor
    modulations: list[list[Modulation | Tensor | None]]
    conditions: list[Tensor | None] | None
    internal: InternalTables | None = None
    placed: PlacedAtoms | None = None
    decoders: dict[Hashable, Decode] = field(default_factory=dict, repr=False, compare=False)
