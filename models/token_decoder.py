"""Uniform numbers → bins, coordinate by coordinate, with preallocated keys and values.

The condition, with keys and values of the global attention, is computed once; log q is summed in the same pass, from
the probabilities that bins are drawn with: exact in any precision of products.

Shapes: B samples, P conditions (1 or B), N atoms, T tokens, C channels, H heads of E channels, K bins.
"""

import torch
from torch import Tensor

from .block_decoder import LayerDecoder, by_token
from .conditioning import Precision
from .products import Product, dtype_of
from .token_network import GlobalAttention, Placed, TokenNetwork


class GlobalDecoder:
    """The global attention, for one token after the other."""

    def __init__(self, attention: GlobalAttention, placed: Placed, dtype: torch.dtype) -> None:
        assert placed.keys is not None
        assert placed.values is not None
        channels, self.head_dim = attention.in_proj_weight.shape[1], attention.head_dim
        scale = self.head_dim**-0.5
        weight, bias = attention.in_proj_weight[:channels].detach(), attention.in_proj_bias[:channels].detach()
        self.query = Product(weight * scale, bias * scale, dtype)
        self.out = Product(attention.out_proj.weight, attention.out_proj.bias, dtype)
        self.keys = placed.keys.detach().to(dtype).transpose(2, 3).contiguous()
        self.values, self.mask = placed.values.detach().to(dtype), placed.mask

    def __call__(self, h: Tensor) -> Tensor:
        """h + what it sees (B, C)."""
        q = self.query(h).unflatten(-1, (-1, self.head_dim))
        if len(self.keys) == 1:  # one peptide: all samples in one product a head
            weights = (q.transpose(0, 1) @ self.keys[0]).softmax(-1)
            return self.out.plus((weights @ self.values[0]).transpose(0, 1).flatten(1), h)
        scores = q[:, :, None] @ self.keys
        if self.mask is not None:
            scores = scores.masked_fill(~self.mask, -torch.inf)
        return self.out.plus((scores.softmax(-1) @ self.values).flatten(1), h)


class TokenDecoder:
    """Bins from uniform numbers for one condition, in one precision and at one temperature of the logits."""

    def __init__(
        self, network: TokenNetwork, placed: Placed, real: Tensor | None, precision: Precision, temperature: float
    ) -> None:
        """Prepare; `real` (P, T): tokens that are not padding, None when all are."""
        self.dtype = dtype_of(precision, network.head.weight)
        self.temperature, self.real = temperature, real
        self.static, self.embedding = by_token(placed.static), network.token.weight.detach()
        self.look = None if network.look is None else GlobalDecoder(network.look, placed, self.dtype)
        self.layers = [LayerDecoder(layer, None, self.dtype) for layer in network.layers]  # type: ignore[arg-type]
        self.norm, self.head = network.norm, Product(network.head.weight, None, self.dtype)

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Draw token t as the first bin whose cumulated probability exceeds u_t.

        Shape: u (B, T) float64 → tokens (B, T) int64, their log-probability (B,) float64.
        """
        batch, steps = u.shape
        channels, head_dim = self.embedding.shape[1], self.layers[0].head_dim
        shape = (len(self.layers), 2, steps, batch, channels // head_dim, head_dim)
        # Tokens come before samples in memory: step t reads the contiguous rows 0..t and writes one.
        cache = torch.empty(shape, dtype=self.dtype, device=u.device)
        tokens, log_prob = torch.empty_like(u, dtype=torch.int64), torch.zeros_like(u)
        before = tokens.new_zeros(batch)  # bin 0 stands before the first
        for t in range(steps):
            h = self.embedding[before] + self.static[t]
            if self.look is not None:
                h = self.look(h)
            for layer, (keys, values) in zip(self.layers, cache, strict=True):
                h = layer(h, t, keys, values)
            before, log_prob[:, t] = draw(self.head(self.norm(h)), u[:, t], self.temperature)
            tokens[:, t] = before
        return tokens, (log_prob if self.real is None else log_prob * self.real).sum(1)


def cooled(logits: Tensor, temperature: float) -> Tensor:
    """Logits over the temperature; themselves at 1."""
    return logits if temperature == 1.0 else logits / temperature


def draw(logits: Tensor, u: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Bins (B,) of softmax(logits / temperature) by their cumulated probabilities, and the log-probability of each.

    Shape: logits (B, K), u (B,) float64 from [0, 1) → (B,) int64, (B,) float64.
    """
    floats = logits if logits.dtype == torch.float64 else logits.float()
    p = cooled(floats, temperature).softmax(-1).double()
    below = p.cumsum(-1)
    total = below[:, -1:]
    token = torch.searchsorted(below, u[:, None] * total, right=True).clamp(max=p.shape[-1] - 1)
    return token[:, 0], (p.gather(1, token) / total).log()[:, 0]
