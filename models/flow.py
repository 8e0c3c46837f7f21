"""The interface of every flow: a density over the atoms of peptides, which draws come from.

Shapes: B samples, P conditions (1 or B), N atoms. Coordinates are normalised: positions in nm minus their mean, over
`scale_nm`.
"""

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from boltzray.molecules.zmatrix import geometry_version

from .conditioning import Conditioning, Precision
from .config import FlowConfig
from .tables import PeptideLike, PeptideTables

KINDS = {
    "cartesian": (".cartesian_flow", "CartesianFlow"),
    "internal": (".internal_flow", "InternalFlow"),
    "graph": (".ecnf", "ECNF"),
    "binned": (".robin", "RobinFlow"),
}
ATOM_TYPES, RESIDUE_TYPES = 128, 64  # sizes of the published embedding tables


class Draw(NamedTuple):
    """Conformations drawn, and the log-density of each from the same pass.

    `center`: of a flow that was trained on frames centred at the origin, the mean of the bins' centres, whose spread
    the weights must account for (`samplers.bins_com_log_density`). `tokens`: the bins of a flow over bins.
    Shape: x (n, N, 3) normalised; log_q (n,); center (n, 3); tokens (n, 3N).
    """

    x: Tensor
    log_q: Tensor
    center: Tensor | None = None
    tokens: Tensor | None = None


class Flow(nn.Module):
    """A normalising flow over the atoms of any peptide, or of one: x ↔ z with z ~ N(0, I) on R^{3N}.

    `Flow(config)` makes the kind that the configuration names, as `pathlib.Path` does: a `CartesianFlow`, an
    `InternalFlow`, an `ECNF`, or a `RobinFlow`, which is no map of latents but draws from uniform numbers.

    `smooth`: its log-density has a gradient by the coordinates.

    `activation_checkpointing`: in training, compute layers again in the backward pass instead of keeping activations.
    `geometry`: of internal coordinates, the version of the usual bonds and angles (`molecules.zmatrix`), or of a single
    molecule the fingerprint of its z-matrix (`Molecule.geometry`).
    `atom_order`: `iupac` if it was trained on atoms in the standard order (`Peptide.iupac`), `named` if those of planar
    groups were also named by where they stand in each frame (`molecules.planar_names`), `file` for a single system in
    the order of its file.
    """

    smooth = True

    def __new__(cls, config: FlowConfig | None = None, *_: Any, **__: Any) -> "Flow":
        """Choose the kind; without a configuration, as copies are made, it is `cls`."""
        if cls is Flow and config is not None:
            module, name = KINDS[config.kind]
            cls = getattr(import_module(module, __package__), name)  # by name: their files need this one
        return super().__new__(cls)

    def __init__(self, config: FlowConfig, scale_nm: float = 1.0, geometry: str | None = None) -> None:
        super().__init__()
        self.config = config
        self.scale_nm = scale_nm
        self.geometry = (geometry or geometry_version(config.vocabulary)) if config.coordinates == "internal" else None
        self.activation_checkpointing = False
        self.atom_order: Literal["iupac", "named", "file"] = "iupac"

    @property
    def device(self) -> torch.device:
        """The device that its parameters are on."""
        return next(self.parameters()).device

    @property
    def transformer_layers(self) -> list[nn.Module]:
        """Its transformer layers, of all blocks."""
        raise NotImplementedError

    def tables(self, peptides: Sequence[PeptideLike]) -> PeptideTables:
        """Peptides as the flow needs them. Raises: ValueError for one that it cannot take."""
        raise NotImplementedError

    def conditioning(self, tables: PeptideTables) -> Conditioning:
        """Everything that depends on the peptides alone, with gradients to the parameters."""
        raise NotImplementedError

    @torch.no_grad()
    def condition(self, peptide: PeptideLike) -> Conditioning:
        """The conditioning of one peptide, computed once for any number of samples."""
        return self.conditioning(self.tables([peptide]))

    def forward(self, x: Tensor, c: Conditioning) -> tuple[Tensor, Tensor]:
        """Latents and log|det ∂z/∂x|.

        Shape: x (B, N, 3) → z (B, N, 3), logdet (B,).
        """
        raise NotImplementedError

    def inverse(self, z: Tensor, c: Conditioning, precision: Precision = "float32") -> tuple[Tensor, Tensor]:
        """Coordinates and log|det ∂x/∂z|, token by token, without gradients.

        `precision` is that of matrix products (see `Decoder`); the log-determinant belongs to the coordinates that
        come with it in either.

        Shape: z (B, N, 3) → x (B, N, 3), logdet (B,).
        """
        raise NotImplementedError

    def log_prob(self, x: Tensor, c: Conditioning, temperature_ratio: float = 1.0) -> Tensor:
        """Log-density (B,) in normalised coordinates (B, N, 3); `temperature_ratio` as in `push`."""
        z, logdet = self(x, c)
        return normal_log_density(z, 3 * c.n_atoms, temperature_ratio) + logdet

    def log_likelihood(self, x: Tensor, c: Conditioning) -> Tensor:
        """Log-density (B,) that training maximises, with gradients: `log_prob`, or what stands in for it.

        A temperature of draws is left out.
        """
        return self.log_prob(x, c)

    def noise(self, stream: np.random.Generator, n: int, n_atoms: int) -> np.ndarray:
        """Random numbers that `n` draws are made of, for `draw`: here latents (n, N, 3)."""
        return stream.standard_normal((n, n_atoms, 3), np.float32)

    def draw(
        self, noise: Tensor, c: Conditioning, precision: Precision = "float32", temperature_ratio: float = 1.0
    ) -> Draw:
        """Conformations from `noise`; `precision` and `temperature_ratio` as in `push`."""
        return Draw(*self.push(noise, c, precision, temperature_ratio))

    def log_covered(self, n_atoms: int) -> float:
        """Logarithm of the share of space that draws cover, of which log Z would lack the rest: all of it, here."""
        del n_atoms
        return 0.0

    @torch.inference_mode()
    def push(
        self, z: Tensor, c: Conditioning, precision: Precision = "float32", temperature_ratio: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Conformations from standard normal latents, and the log-density of each, summed in the same pass.

        In bf16 too that is the density of these conformations, and what importance weights need; a forward pass gives
        a slightly different one. `temperature_ratio`: temperature over that of the training; here all latents have that
        variance, and of internal coordinates all but rotatable dihedrals and rotations spread as its root.

        Shape: z (n, N, 3) → x (n, N, 3) normalised, log_q (n,).
        """
        z = z if temperature_ratio == 1.0 else z * math.sqrt(temperature_ratio)
        x, logdet = self.inverse(z, c, precision)
        return x, normal_log_density(z, 3 * c.n_atoms, temperature_ratio) - logdet

    def sample(
        self, c: Conditioning, n: int, generator: torch.Generator | None = None, precision: Precision = "float32"
    ) -> tuple[Tensor, Tensor]:
        """`n` conformations of one peptide and the log-density of each; `generator` is a CPU one.

        Shape: x (n, N, 3) normalised, log_q (n,).
        """
        parameter = next(self.parameters())
        z = torch.randn((n, self.atoms(c), 3), generator=generator, dtype=parameter.dtype)
        return self.push(z.to(parameter.device), c, precision)

    def atoms(self, c: Conditioning) -> int:
        """Atoms N of the conformations, with padding."""
        return c.order.shape[-1] * self.config.token_dim // 3


def normal_log_density(z: Tensor, n: Tensor | None = None, variance: float = 1.0) -> Tensor:
    """Log-density (B,) of independent normal numbers (B, ...); `n` (B,) of them count, the others are zero."""
    z = z.flatten(1)
    count = z.shape[1] if n is None else n.to(z)
    return -0.5 * z.square().sum(1) / variance - 0.5 * math.log(2 * math.pi * variance) * count
