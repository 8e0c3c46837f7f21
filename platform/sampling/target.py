"""The density that is sampled: a peptide in a force field, at a temperature."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from boltzray import models
from boltzray.models.conditioning import Precision
from boltzray.models.flow import Flow
from boltzray.molecules.constants import PUBLISHED_K
from boltzray.molecules.energy_batch import EnergyBatch
from boltzray.molecules.forcefield import DEFAULT_FORCEFIELD
from boltzray.samplers.com import CenterOfMass, com_log_density

from .energy_actors import Molecule


@dataclass(frozen=True, kw_only=True)
class Target:
    """The density to sample: a peptide at a temperature, the distribution of its centre of mass; and how to propose.

    The flow is sampled at the same temperature: its latents, and the centre of mass, get `ratio` times the variance
    that they had when it was trained at `trained_at_k`. It is sent to actors, so the peptide is PDB text.
    """

    pdb: str
    temperature_k: float
    com: CenterOfMass = "gaussian"
    trained_at_k: float = PUBLISHED_K
    draw_precision: Precision = "float32"
    smc_precision: Precision = "float32"
    forcefield: str = DEFAULT_FORCEFIELD

    @property
    def temperature_ratio(self) -> float:
        """Temperature over that of the training."""
        return self.temperature_k / self.trained_at_k

    @property
    def molecule(self) -> Molecule:
        """The part of it that has an energy."""
        return Molecule(self.pdb, self.temperature_k, self.forcefield)

    def fits_center(self, flow: Flow) -> bool:
        """Return True where the centre-of-mass term is fitted to all draws: see `samplers.bins_com_log_density`."""
        return flow.config.center == "zero" and self.com == "gaussian"

    def log_density(
        self, x: Tensor, energy: EnergyBatch, scale_nm: float, com: CenterOfMass | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """log π̃, its gradient and ok, in normalised coordinates, from energies at scale_nm · x; `com` if not its own.

        Shape: x (B, N, 3) → (B,), (B, N, 3) or None, (B,) bool.
        """
        com_term, com_gradient = com_log_density(x, com or self.com, self.temperature_ratio)
        log_p = com_term - torch.from_numpy(energy.energy)
        gradient = None
        if energy.gradient is not None:
            gradient = com_gradient - scale_nm * torch.from_numpy(energy.gradient)
        return log_p, gradient, torch.from_numpy(energy.ok)


def check_supported(flow: Flow, com: CenterOfMass, *, smc: bool) -> None:
    """Raises: ValueError of one line for what this flow, or this target, does not allow."""
    if smc and not flow.smooth:
        kind = "an ECNF does not have at a bearable cost" if flow.config.graph else "a flow over bins does not have"
        raise ValueError(f"SMC moves along the gradient of log q, which {kind}: give sampler=snis")
    if smc and com == "none":
        raise ValueError("SMC needs a target with a centre of mass: give com=gaussian, or sampler=snis")
    if com == "radial" and flow.config.center == "zero":
        raise ValueError("com=radial is of flows with a Gaussian centre of mass: give com=gaussian, or none")


def trained_at_k(checkpoint: Path) -> float:
    """Temperature of the data that a flow was trained on; public weights do not record theirs."""
    if not checkpoint.is_dir():
        return PUBLISHED_K
    return float(models.checkpoint.describe(checkpoint).provenance.get("temperature_k", PUBLISHED_K))
