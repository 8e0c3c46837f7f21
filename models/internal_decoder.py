"""Latents → internal coordinates, atom by atom, with preallocated keys and values.

Shapes: B samples, P conditions (1 or B), N atoms in the order of their placement, C channels, H heads of E channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .autoregressive import Autoregressive, inputs
from .block_decoder import LayerDecoder
from .conditioning import Conditioning, Precision
from .internal_coordinates import place
from .products import dtype_of


class InternalDecoder:
    """The inverse of the density for one condition, in one precision and at one temperature.

    The log-density is summed in the same pass, from the same mixtures that coordinates are drawn from: whatever the
    precision of products, it is that of these coordinates.
    """

    def __init__(
        self, network: Autoregressive, c: Conditioning, precision: Precision, temperature_ratio: float
    ) -> None:
        assert c.placed is not None
        assert c.internal is not None
        self.network, self.temperature_ratio = network, temperature_ratio
        self.dtype = dtype_of(precision, network.proj_in.weight)
        current, following = c.modulations[0]
        assert isinstance(current, Tensor)
        assert isinstance(following, Tensor)
        self.current = current.detach()
        self.layers = [LayerDecoder(layer, following, self.dtype) for layer in network.layers]  # type: ignore[arg-type]
        n = c.order.shape[-1]
        self.atoms = [c.placed.atom(i) for i in range(n)]
        self.present = c.placed.present.any(0).tolist()
        rotatable = c.placed.rotatable
        self.rotatable = list(zip(rotatable.any(0).tolist(), rotatable.all(0).tolist(), strict=True))
        order = c.order[0]
        index = order[..., None].expand(-1, -1, 3)
        weight = network.proj_in.weight
        self.scale, self.mean = (t.gather(1, index).to(weight) for t in (c.internal.scale, c.internal.mean))

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Shape: z (B, N, 3) → y (B, N, 3), zero where there is no coordinate; log-density (B,)."""
        network, (batch, n, _) = self.network, z.shape
        channels, heads = network.proj_in.out_features, network.biases.out_features // len(self.layers)
        cache = torch.empty(
            (len(self.layers), 2, n, batch, heads, channels // heads), dtype=self.dtype, device=z.device
        )
        y, x, log_density = torch.zeros_like(z), torch.zeros_like(z), z.new_zeros(batch)
        h_in = z.new_zeros(batch, channels)
        for i, atoms in enumerate(self.atoms):
            pairs = F.pad(network.seen(x, x[:, :i], atoms), (0, 0, 1, 0))[:, 0].transpose(0, 1)
            biases = F.linear(pairs, network.biases.weight).chunk(len(self.layers), -1)
            h = h_in
            for layer, bias, (keys, values) in zip(self.layers, biases, cache, strict=True):
                h = layer(h, i, keys, values, bias)
            y_i, log_density_i = self._draw(i, z[:, i : i + 1], network.norm(h)[:, None])
            y[:, i] = y_i[:, 0]
            log_density = log_density + log_density_i
            if i == n - 1:
                break
            x[:, i] = place(i, y_i[:, 0] * self.scale[:, i] + self.mean[:, i], x, atoms)
            h_in = network.proj_in(inputs(y_i, atoms.rotatable))[:, 0] + self.current[:, i]
        return y, log_density

    def _draw(self, i: int, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates (B, 1, 3) of atom `i` and their log-density (B,)."""
        network, atoms = self.network, self.atoms[i]
        y, log_density = torch.zeros_like(z), z.new_zeros(len(z))
        some, every = self.rotatable[i]
        for k in range(3):
            if not self.present[i][k]:
                continue
            mixtures = []
            if k < 2 or not every:
                mixtures.append(network.mixture(k, y, features, self.temperature_ratio))
            if k == 2 and some:
                mixtures.append(network.dihedral_mixture(y, features))
            drawn = [(v, m.log_density(v)) for m in mixtures for v in [m.from_normal(z[..., k])]]
            v, density = drawn[-1]
            if len(drawn) == 2:  # of several peptides, some have a rotatable dihedral here
                v, density = (torch.where(atoms.rotatable, b, a) for a, b in zip(*drawn, strict=True))
            here = atoms.present[..., k]
            y[..., k] = torch.where(here, v, y[..., k])
            log_density = log_density + torch.where(here, density, torch.zeros_like(density))[:, 0]
        return y, log_density
