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
from ..runtime.peptide_names import Sequences, several_peptides
from ..sampling.energy_actors import EnergyConfig
from ..sampling.flow_actors import ActorsConfig
from ..sampling.peptide_source import PeptideSource
from .budget import LEAST_DRAWS, EnergyBudget


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
    """Finetune a flow to one peptide, or to many at once, within `budget` energy evaluations of them.

    Each of `rounds` fills a buffer, for `buffer` energies (0: budget / (rounds + 1)), and takes `steps` optimiser
    steps of `batch` conformations on it; the last draw takes what is left of the budget, a buffer or more. `rounds=0`
    with a `buffer` makes as many rounds as the budget allows. `sampler=snis` spends the energies of a buffer on
    draws; `smc` draws `smc_particles` and anneals them, for as long as the energies of the buffer last.

    `sequences`, in place of `sequence` or `pdb`: all of them share the budget equally, and one flow learns from all, a
    few (`peptides_a_step`) in each step, `batch` conformations in all. Of `validation`, which it does not learn from,
    `validation_draws` each show in every round what this does for other peptides; their energies are counted apart.

    `in_process`: on one thread of this process, as trials of a sweep are; short for actors.in_process=true
    actors.flow_replicas=1. Where it runs does not show in the bits.
    """

    sequence: str = ""
    pdb: str | None = None
    sequences: Sequences = ()
    validation: Sequences = ()
    validation_draws: int = 1000
    peptides_a_step: int = 4
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
        self._check_peptides()
        if min(self.steps, self.batch) < 1 or min(self.rounds, self.buffer) < 0:
            raise ValueError("steps and batch must be at least 1, rounds and buffer 0 (automatic) or more")
        of_each = self.batch // max(1, min(self.peptides_a_step, len(self.sequences)))
        if of_each < 2 and "log_variance" in self.objective.active:
            raise ValueError(
                "log_variance is the variance over a batch: give batch= 2 or more for each peptide of a step"
            )
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

    def _check_peptides(self) -> None:
        """Make names canonical. Raises: ValueError for too many of them, or too few."""
        if not self.sequences:
            object.__setattr__(self, "sequence", self.source.sequence)
            if self.validation:
                raise ValueError("validation= is of several peptides: give sequences=[AA,AL], or leave it out")
            return
        if self.sequence or self.pdb:
            raise ValueError("give one peptide, sequence=ARIP or pdb=FILE, or several, sequences=[AA,AL]: not both")
        for name in ("sequences", "validation"):
            object.__setattr__(self, name, several_peptides(getattr(self, name)))
        if both := sorted(set(self.sequences) & set(self.validation)):
            raise ValueError(f"{', '.join(both)}: a peptide that is learned from cannot validate; take it out of one")
        if self.validation_draws < LEAST_DRAWS:
            raise ValueError(f"validation_draws={self.validation_draws} must be {LEAST_DRAWS} or more")
        if not 1 <= self.peptides_a_step <= self.batch:
            raise ValueError(f"peptides_a_step={self.peptides_a_step} must be from 1 to batch={self.batch}")
        if "real_data" in self.objective.active:
            raise ValueError("objective.real_data is of one peptide: give sequence=, or another objective")
        if self.energy.engine == "openmm":
            raise ValueError("several peptides take energy=batched: leave energy=openmm out")
        if self.energy.compile:
            raise ValueError("energy.compile=true takes a minute for each peptide: leave it out for several")

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
            peptides=max(1, len(self.sequences)),
        )

    @property
    def all_energies(self) -> int:
        """The budget, and what validation takes besides."""
        return self.budget + len(self.validation) * self.validation_draws * (self.plan.rounds + 1)

    @property
    def source(self) -> PeptideSource:
        """The peptide to finetune to. Raises: ValueError where there are several."""
        return PeptideSource(sequence=self.sequence, pdb=self.pdb, data_dir=self.data_dir)

    @property
    def sources(self) -> list[PeptideSource]:
        """The peptides to learn from."""
        return self._named(self.sequences) or [self.source]

    @property
    def validation_sources(self) -> list[PeptideSource]:
        """The peptides to judge the flow by, besides."""
        return self._named(self.validation)

    def _named(self, names: tuple[str, ...]) -> list[PeptideSource]:
        return [PeptideSource(sequence=name, data_dir=self.data_dir) for name in names]

    @property
    def where(self) -> ActorsConfig:
        """The workers, or a single thread for `in_process`."""
        return ActorsConfig(flow_replicas=1, in_process=True) if self.in_process else self.actors

    @property
    def files(self) -> dict[str, Path | None]:
        """Files whose content decides the results, by the key that names them."""
        data = self.objective.real_data
        pdb = None if self.sequences else self.source.file
        return {"pdb": pdb, "objective.real_data": data_folder(data) if data else None}

    @property
    def folder(self) -> str:
        """`out`, or a folder named after the peptide, or the first one, and the objective."""
        return self.out or f"outputs/finetune/{self.name}-{self.objective.name}"

    @property
    def name(self) -> str:
        """The peptide, or the first one and how many more: for names of folders."""
        return f"{self.sequences[0]}-and-{len(self.sequences) - 1}-more" if self.sequences else self.source.name

    def temperatures(self, index: int) -> tuple[float, float]:
        """Temperatures (K) of the draws of round `index` and of its target: the same but for the ladder of `anneal`."""
        n = self.plan.rounds
        if "anneal" not in self.objective.active or index >= n:
            return self.temperature_k, self.temperature_k
        hot, cold = self.objective.hottest_k, self.temperature_k
        ladder = [hot * (cold / hot) ** (k / n) for k in range(n)] + [cold]
        return ladder[index], ladder[index + 1]
