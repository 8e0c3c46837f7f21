"""Robin (ArBG): an autoregressive density over bins of coordinates, transferable or of a single system.

A conformation is drawn bin by bin, and spread evenly over each bin, so log q is that of the bins less 3N·log(width). It
has no gradient by the coordinates: SMC's kernels and path gradients are refused. log q is that of the bins that were
drawn: in float32 one draw in some thousand coordinates lands in the bin beside, so a density looked up at x may differ.

Shapes: B samples, P conditions (1 or B), N atoms, T = 3N tokens, K bins. Source: Robin (arXiv 2606.27361).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bins import Bins
from .conditioning import Conditioning, Precision
from .config import FlowConfig
from .flow import Draw, Flow
from .flow_decoder import Decoder
from .layers import reorder
from .tables import PeptideLike, PeptideTables
from .token_decoder import TokenDecoder, cooled
from .token_network import Placed, TokenNetwork

LOGITS_AT_ONCE = 2**26  # numbers, where no gradient keeps them all


class RobinFlow(Flow):
    """A density over bins of coordinates. Draws are made of uniform numbers: it is no map of latents."""

    smooth = False

    def __init__(self, config: FlowConfig, scale_nm: float = 1.0, geometry: str | None = None) -> None:
        super().__init__(config, scale_nm, geometry)
        self.network = TokenNetwork(config)
        self.bins = Bins(config.bins, *config.bin_range)

    @property
    def transformer_layers(self) -> list[nn.Module]:
        """See `Flow`."""
        return list(self.network.layers)

    def tables(self, peptides: Sequence[PeptideLike]) -> PeptideTables:
        """See `Flow`."""
        config = self.config
        if config.system_atoms:
            return PeptideTables.of_system(peptides, config).to(self.device)
        tables = PeptideTables.of(peptides, config.ordering_names)
        for peptide, n in zip(peptides, tables.n_atoms.tolist(), strict=True):
            if n > config.max_atoms:
                raise ValueError(
                    f"{peptide.sequence} has {n} atoms, and this flow knows places for {config.max_atoms}: give a "
                    "shorter peptide, or another flow as checkpoint="
                )
        return tables.to(self.device)

    def conditioning(self, tables: PeptideTables) -> Conditioning:
        """See `Flow`."""
        order, mask = tables.orderings[0], None
        if not self.config.system_atoms:
            names = ("atom_type", "aa_type", "aa_pos")
            visited = {name: getattr(tables, name).gather(1, order.expand(len(tables.n_atoms), -1)) for name in names}
            tables = replace(tables, **visited)
            if len(tables.n_atoms) > 1:  # a single peptide is never padded
                mask = torch.arange(order.shape[1], device=order.device) < tables.n_atoms[:, None]
        placed = self.network.condition(tables, mask)
        return Conditioning(
            order=order[None],
            inverse_order=order.argsort(-1)[None],
            mask=mask,
            n_atoms=tables.n_atoms,
            modulations=[list(placed)],
            conditions=None,
        )

    def tokenize(self, x: Tensor, c: Conditioning | None = None) -> Tensor:
        """Bins (B, T) of coordinates (B, N, 3): atoms in the order in which `c` visits them, else as they stand."""
        return self.bins.tokens(x if c is None else reorder(x, c.order[0])).flatten(1)

    def logits(self, tokens: Tensor, c: Conditioning) -> Tensor:
        """Logits (B, T, K), without temperature, of each token (B, T) given those before it."""
        return self.network.logits(self._features(tokens, c))

    def token_log_prob(self, tokens: Tensor, c: Conditioning, temperature: float | None = None) -> Tensor:
        """Log-probability of each token, zero at padding; at the temperature of the configuration unless given.

        Shape: tokens (B, T) → (B, T) in the dtype of the weights.
        """
        temperature = self.config.temperature if temperature is None else temperature
        h = self._features(tokens, c)
        rows = len(h) if torch.is_grad_enabled() else max(1, LOGITS_AT_ONCE // (h.shape[1] * self.bins.count))
        parts = []
        for some, own in zip(h.split(rows), tokens.split(rows), strict=True):
            logits = cooled(self.network.logits(some), temperature)
            parts.append(-F.cross_entropy(logits.flatten(0, 1), own.flatten(), reduction="none").view_as(own))
        found = torch.cat(parts)
        return found if c.mask is None else found * c.mask.repeat_interleave(3, 1)

    def log_prob(self, x: Tensor, c: Conditioning, temperature_ratio: float = 1.0) -> Tensor:
        """See `Flow`: of the bins that x lies in, float64. `temperature_ratio` divides the logits, too."""
        each = self.token_log_prob(self._tokens(x, c), c, self.config.temperature * temperature_ratio)
        return each.double().sum(1) - self._log_volume(c)

    def log_likelihood(self, x: Tensor, c: Conditioning) -> Tensor:
        """See `Flow`: at temperature 1."""
        return self.token_log_prob(self._tokens(x, c), c, 1.0).double().sum(1) - self._log_volume(c)

    def loss(self, x: Tensor, c: Conditioning) -> Tensor:
        """Cross-entropy: mean over a peptide's coordinates, then over the batch; the published loss."""
        each = self.token_log_prob(self._tokens(x, c), c, 1.0)
        return -(each.sum(1) / (3 * c.n_atoms)).mean()

    def noise(self, stream: np.random.Generator, n: int, n_atoms: int) -> np.ndarray:
        """See `Flow`: uniform numbers (n, 2, 3N) float64, for the bins and for the places in them."""
        return stream.random((n, 2, 3 * n_atoms))

    def draw(
        self, noise: Tensor, c: Conditioning, precision: Precision = "float32", temperature_ratio: float = 1.0
    ) -> Draw:
        """See `Flow`."""
        return self.sample_from_uniforms(noise[:, 0], noise[:, 1], c, precision, temperature_ratio)

    @torch.inference_mode()
    def sample_from_uniforms(
        self, u: Tensor, v: Tensor, c: Conditioning, precision: Precision = "float32", temperature_ratio: float = 1.0
    ) -> Draw:
        """Conformations from uniform numbers: `u` choose the bins, `v` the places in them.

        Shape: u, v (B, T) → x (B, N, 3), log_q (B,) float64, tokens (B, T), center (B, 3) float64.
        """
        if u.shape != v.shape or u.shape[1:] != (3 * self.atoms(c),):
            raise ValueError(f"u and v have shapes {tuple(u.shape)}, {tuple(v.shape)}: give (B, {3 * self.atoms(c)})")
        temperature = self.config.temperature * temperature_ratio
        key, alone = (precision, temperature), c.order.shape[1] == 1
        if key not in c.decoders:
            real = None if c.mask is None else c.mask.repeat_interleave(3, 1)
            run = TokenDecoder(self.network, placed(c), real, precision, temperature)
            c.decoders[key] = Decoder(run, alone=alone, records=self.device.type == "cuda")
        tokens, log_prob = c.decoders[key](u.double())
        x = self.bins.place(tokens, v.to(self.network.head.weight.dtype)).view(len(u), -1, 3)
        centers = self.bins.centers(tokens, torch.float64).view(len(u), -1, 3)
        if c.mask is not None:
            x, centers = x * c.mask[..., None], centers * c.mask[..., None]
        center = centers.sum(1) / c.n_atoms[:, None] if self.config.center == "zero" else None
        return Draw(reorder(x, c.inverse_order[0]), log_prob - self._log_volume(c), center, tokens)

    def log_covered(self, n_atoms: int) -> float:
        """See `Flow`: the bins are one part in K narrower than their centres are apart."""
        return 3 * n_atoms * math.log(self.bins.width / self.bins.pitch)

    def push(
        self, z: Tensor, c: Conditioning, precision: Precision = "float32", temperature_ratio: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """See `Flow`; z is `noise` (n, 2, 3N), uniform."""
        drawn = self.draw(z, c, precision, temperature_ratio)
        return drawn.x, drawn.log_q

    def sample(
        self, c: Conditioning, n: int, generator: torch.Generator | None = None, precision: Precision = "float32"
    ) -> tuple[Tensor, Tensor]:
        """See `Flow`."""
        uniform = torch.rand((n, 2, 3 * self.atoms(c)), generator=generator, dtype=torch.float64)
        return self.push(uniform.to(self.device), c, precision)

    def _tokens(self, x: Tensor, c: Conditioning) -> Tensor:
        n = self.atoms(c)
        if x.shape[1:] != (n, 3):
            raise ValueError(f"coordinates have shape {tuple(x.shape)}: give (B, {n}, 3) for this peptide")
        return self.tokenize(x, c)

    def _features(self, tokens: Tensor, c: Conditioning) -> Tensor:
        recompute = self.activation_checkpointing and torch.is_grad_enabled()
        return self.network.features(tokens, placed(c), recompute=recompute)

    def _log_volume(self, c: Conditioning) -> Tensor:
        """Logarithm of the volume (P,) over which a draw is spread, float64."""
        return 3 * c.n_atoms.double() * math.log(self.bins.width)


def placed(c: Conditioning) -> Placed:
    return Placed(*c.modulations[0])  # type: ignore[arg-type]
