"""The part of a flow that depends on the peptide alone, computed once for many conformations.

Shapes: P conditions (1 or B), T tokens, C channels, K blocks; see `flow`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from .internal_coordinates import InternalTables
from .layers import Modulation
from .transform import CoordinateMasks

Precision = Literal["float32", "bf16"]
Decode = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Conditioning:
    """The part of the network that depends on the peptide alone.

    Shape: order, inverse_order (K, P, T); mask (P, T) of real tokens, None when there is no padding; n_atoms (P,);
    modulations: for each block, for each layer, tensors (P, T, C) in the block's ordering, or None without condition.
    conditions: with activation checkpointing each block's condition (P, T, C), for forward passes; no modulations.
    internal, coordinate_masks: z-matrices, and the kinds of their coordinates for each block; None for Cartesian ones.
    decoders: the inverse, prepared on its first use, for each precision.
    """

    order: Tensor
    inverse_order: Tensor
    mask: Tensor | None
    n_atoms: Tensor
    modulations: list[list[Modulation | Tensor | None]]
    conditions: list[Tensor | None] | None
    internal: InternalTables | None
    coordinate_masks: list[CoordinateMasks | None]
    decoders: dict[Precision, Decode] = field(default_factory=dict, repr=False, compare=False)
