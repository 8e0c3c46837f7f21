"""Configuration of a finetuning, checked where it is written down."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from boltzray.models.conditioning import Precision
from boltzray.models.hub import DEFAULT_CHECKPOINT
from boltzray.models.losses import ObjectiveConfig
from boltzray.samplers import HMC, SMCConfig
from boltzray.samplers.com import CenterOfMass
from boltzray.samplers.importance_weights import Treatment

from ..runtime.cluster import ClusterConfig
from ..runtime.config import data_folder
from ..sampling.energy_actors import EnergyConfig
from ..sampling.flow_actors import ActorsConfig
from ..sampling.peptide_source import PeptideSource
from .budget import EnergyBudget


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW. The rate rises to `lr` over `warmup_share` of all rounds' steps, and falls as a cosine.

    `precision`: of the matrix products of likelihoods that are learned from, `auto` for bf16 where the hardware has it:
    log q is then hundredths of a nat off. Draws, their weights and gradients along samples stay float32.
    """

    lr: float = 1e-4
    weight_decay: float = 4e-4
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_share: float = 0.05
    clip: float = 1.0
    max_bad_steps: int = 10
    precision: str = "auto"

    def __post_init__(self) -> None:
        if not 0.0 < self.lr < math.inf or not self.clip > 0.0:
            raise ValueError(f"optimizer.lr={self.lr} and optimizer.clip={self.clip} must be above 0")
        if not 0.0 < self.warmup_share < 1.0 or self.max_bad_steps < 1:
            raise ValueError("optimizer.warmup_share must lie between 0 and 1, optimizer.max_bad_steps be 1 or more")
        if self.precision not in ("auto", "bf16", "float32"):
            raise ValueError(f"optimizer.precision={self.precision!r} is unknown: choose auto, bf16 or float32")


@dataclass(frozen=True, kw_only=True)
class FinetuneJob:
    """Finetune a flow to one peptide, within `budget` energy evaluations of it.

    Each of `rounds` fills a buffer, for `buffer` energies (0: budget / (rounds + 1)), and takes `steps` optimiser
    steps of `batch` conformations on it; the last draw takes what is left of the budget, a buffer or more. `rounds=0`
    with a `buffer` makes as many rounds as the budget allows. `sampler=snis` spends the energies of a buffer on
    draws; `smc` draws `smc_particles` and anneals them, for as long as the energies of the buffer last.

    `in_process`: on one thread of this process, as trials of a sweep are; short for actors.in_process=true
    actors.flow_replicas=1. Where it runs does not show in the bits.
    """

    sequence: str = ""
    pdb: str | None = None
    checkpoint: str = DEFAULT_CHECKPOINT
    out: str = ""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    budget: int = 20_000
    rounds: int = 4
    buffer: int = 0
    steps: int = 100
    batch: int = 128
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    sampler: Literal["snis", "smc"] = "snis"
    smc_particles: int = 256
    smc: SMCConfig = HMC
    weights: Treatment = "psis"
    temperature_k: float = 310.0
    com: CenterOfMass = "gaussian"
    draw_precision: Precision = "float32"
    seed: int = 0
    checkpoint_s: float = 10.0
    data_dir: str = "data"
    in_process: bool = False
    energy: EnergyConfig = field(default_factory=EnergyConfig)
    actors: ActorsConfig = field(default_factory=ActorsConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sequence", self.source.sequence)
        if min(self.steps, self.batch) < 1 or min(self.rounds, self.buffer) < 0:
            raise ValueError("steps and batch must be at least 1, rounds and buffer 0 (automatic) or more")
        if self.batch < 2 and "log_variance" in self.objective.active:
            raise ValueError("log_variance is the variance over a batch: give batch= 2 or more")
        if not (self.rounds or self.buffer):
            raise ValueError("give rounds= or buffer= (or both)")
        if not 0.0 < self.temperature_k < math.inf:
            raise ValueError(f"temperature_k={self.temperature_k} must be positive, in kelvin")
        if "anneal" in self.objective.active and not self.temperature_k < self.objective.hottest_k < math.inf:
            raise ValueError(
                f"objective.hottest_k={self.objective.hottest_k:g} must be above temperature_k={self.temperature_k:g}"
            )
        self.plan.check(self.objective, self.buffer)
        if self.sampler == "smc" and self.objective.buffered:
            self.plan.check_smc(self.smc_particles, self.smc)

    @property
    def plan(self) -> EnergyBudget:
        """The energies of each round, and of the last draw."""
        return EnergyBudget.plan(
            self.objective,
            total=self.budget,
            rounds=self.rounds,
            buffer=self.buffer,
            steps=self.steps,
            batch=self.batch,
        )

    @property
    def source(self) -> PeptideSource:
        """The peptide to finetune to."""
        return PeptideSource(sequence=self.sequence, pdb=self.pdb, data_dir=self.data_dir)

    @property
    def where(self) -> ActorsConfig:
        """The workers, or a single thread for `in_process`."""
        return ActorsConfig(flow_replicas=1, in_process=True) if self.in_process else self.actors

    @property
    def files(self) -> dict[str, Path | None]:
        """Files whose content decides the results, by the key that names them."""
        data = self.objective.real_data
        return {"pdb": self.source.file, "objective.real_data": data_folder(data) if data else None}

    @property
    def folder(self) -> str:
        """`out`, or a folder named after the peptide and the objective."""
        return self.out or f"outputs/finetune/{self.source.name}-{self.objective.name}"

    def temperatures(self, index: int) -> tuple[float, float]:
        """Temperatures (K) of the draws of round `index` and of its target: the same but for the ladder of `anneal`."""
        n = self.plan.rounds
        if "anneal" not in self.objective.active or index >= n:
            return self.temperature_k, self.temperature_k
        hot, cold = self.objective.hottest_k, self.temperature_k
        ladder = [hot * (cold / hot) ** (k / n) for k in range(n)] + [cold]
        return ladder[index], ladder[index + 1]
