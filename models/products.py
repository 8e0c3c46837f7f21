"""Matrix products with a weight that is used many times: cast and packed once.

A decoder multiplies a few rows by the same weights again and again. A general matrix product packs the weight anew
each time, which at 32 rows costs a third of the speed; oneDNN packs it once, and applies an activation, a sum or a
product while the result is still in cache.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["none", "gelu", "swish"]
PACKED_FROM = 128  # inputs; below, starting oneDNN costs more than a float32 product gains
TYPICAL_ROWS = 64  # the layout is chosen for these; a constant, so that the layout and the bits do not depend on use


def dtype_of(precision: str, weight: Tensor) -> torch.dtype:
    """The dtype of products in a precision: `float32` is that of the weights.

    Raises: ValueError for another name.
    """
    if precision not in ("float32", "bf16"):
        raise ValueError(f"precision={precision!r} is unknown: choose float32 or bf16")
    return torch.bfloat16 if precision == "bf16" else weight.dtype


def computes_bf16(device: torch.device) -> bool:
    """Return True where products in bf16 are faster than in float32: GPUs, and CPUs with instructions for them.

    Others imitate them, at a quarter of the speed of float32, and oneDNN says all the same that it supports them.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in known)


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Return True if products are in bf16: by name, or, of `auto`, where they are faster. Raises: ValueError."""
    if precision not in ("auto", "bf16", "float32"):
        raise ValueError(f"precision={precision!r} is unknown: choose auto, bf16 or float32")
    return precision == "bf16" or (precision == "auto" and computes_bf16(device))


def _packs(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32 and weight.shape[1] >= PACKED_FROM


class Product:
    """x Wᵀ + b in `dtype`, for one W.

    Shape: x (B, in) → (B, out) in `dtype`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.weight = weight.detach().to(dtype)
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.packed = _packs(self.weight)
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous(), TYPICAL_ROWS)

    def __call__(self, x: Tensor, activation: Activation = "none") -> Tensor:
        x = x.to(self.dtype)
        if self.packed:
            y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self.weight, self.bias, activation, [], "none")
            return y
        y = F.linear(x, self.weight, self.bias)
        if activation == "none":
            return y
        return F.gelu(y) if activation == "gelu" else F.silu(y)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """residual + (x Wᵀ + b), in the residual's dtype."""
        return self._binary(x, residual, "add") if residual.dtype == self.dtype else residual + self(x)

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """factor · (x Wᵀ + b)."""
        return self._binary(x, factor, "mul")

    def _binary(self, x: Tensor, other: Tensor, kind: Literal["add", "mul"]) -> Tensor:
        if self.packed:
            x = x.to(self.dtype)
            y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, kind)
            return y
        return other + self(x) if kind == "add" else other * self(x)
