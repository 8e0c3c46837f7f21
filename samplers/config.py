"""Configuration of SMC, checked when it is made."""

from dataclasses import dataclass
from typing import Literal, get_args

from .population import Kernel
from .resampling import Scheme

Schedule = Literal["adaptive", "linear"]
ULAWeights = Literal["exact", "continuous"]
ZEstimate = Literal["unbiased", "consistent", "biased"]


@dataclass(frozen=True, kw_only=True)
class SMCConfig:
    """Settings of SMC.

    `schedule`: adaptive, λ by conditional ESS `cess_target`; linear, `n_steps` equal steps.
    `ess_threshold`: resample below this fraction of n; 1 resamples every step, 0 never.
    `step_size`: first step, in normalised coordinates: h of MALA and ULA (x + h∇log γ + √(2h)ξ; the published
    ε is h/Δλ), time step of HMC. It follows `target_acceptance` (about 0.65 suits HMC); None keeps it, and
    ULA, which rejects nothing, never adapts.
    `block_size`: particles evaluated together; part of the result's identity, unlike the number of actors.
    """

    kernel: Kernel = "mala"
    schedule: Schedule = "adaptive"
    cess_target: float = 0.95
    n_steps: int = 100
    max_steps: int = 10_000
    moves_per_step: int = 1
    step_size: float = 2.5e-5
    target_acceptance: float | None = 0.574
    n_leapfrog: int = 5
    ula_weights: ULAWeights = "exact"
    ess_threshold: float = 0.5
    resampling: Scheme = "systematic"
    block_size: int = 256

    def __post_init__(self) -> None:
        choices = {"kernel": Kernel, "schedule": Schedule, "ula_weights": ULAWeights, "resampling": Scheme}
        for name, type_ in choices.items():
            if getattr(self, name) not in get_args(type_):
                known = ", ".join(get_args(type_))
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose one of {known}")
        for name in ("n_steps", "max_steps", "moves_per_step", "n_leapfrog", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} leaves nothing to do; set it to 1 or more")
        if not 0.0 < self.cess_target < 1.0:
            raise ValueError(f"cess_target={self.cess_target} must lie between 0 and 1; 0.95 is usual")
        if not 0.0 <= self.ess_threshold <= 1.0:
            raise ValueError(f"ess_threshold={self.ess_threshold} is a fraction of n; set it within 0 and 1")
        if not 0.0 < self.step_size < float("inf"):
            raise ValueError(f"step_size={self.step_size} must be positive and finite, for instance 1e-3")
        if self.target_acceptance is not None and not 0.0 < self.target_acceptance < 1.0:
            raise ValueError(f"target_acceptance={self.target_acceptance}: set it within 0 and 1, or to null")
        if self.schedule == "linear" and self.n_steps > self.max_steps:
            raise ValueError(f"n_steps={self.n_steps} exceeds max_steps={self.max_steps}; raise max_steps")

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of the target, with its gradient, that one step takes for each particle."""
        return self.moves_per_step * (self.n_leapfrog if self.kernel == "hmc" else 1)

    @property
    def z_estimate(self) -> ZEstimate:
        """Quality of Ẑ: unbiased only if nothing adapts; biased with continuous ULA weights (no discretisation)."""
        if self.kernel == "ula" and self.ula_weights == "continuous":
            return "biased"
        adapts = self.kernel != "ula" and self.target_acceptance is not None
        return "consistent" if adapts or self.schedule == "adaptive" else "unbiased"


# Longer moves and smaller steps of the path: the default of `sample`; conf/smc/hmc.yaml says why.
HMC = SMCConfig(kernel="hmc", step_size=7e-3, n_leapfrog=10, target_acceptance=0.65, cess_target=0.98)
