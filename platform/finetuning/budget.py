"""Energy evaluations of a finetuning: how many each round may spend, and on what."""

from dataclasses import dataclass

from boltzray.models.losses import ObjectiveConfig
from boltzray.samplers import SMCConfig

LEAST_DRAWS = 32  # of a buffer or of the last draw: fewer weights say nothing
PROBE = 1000  # draws a round where nothing is learned from a buffer, to see how good the flow is


@dataclass(frozen=True, kw_only=True)
class EnergyBudget:
    """`rounds` × (`buffer` + `on_policy`) energies, and the final draw with what is left of `total`.

    A round may spend `per_round`: `on_policy` on the draws of its optimiser steps, `buffer` on filling its buffer, by
    draws or by SMC. SMC that arrives early leaves more for the final draw. Each of `peptides` has an equal part.
    """

    total: int
    rounds: int
    per_round: int
    on_policy: int
    buffer: int
    peptides: int = 1

    @classmethod
    def plan(
        cls, objective: ObjectiveConfig, *, total: int, rounds: int, buffer: int, steps: int, batch: int,
        peptides: int = 1,
    ) -> "EnergyBudget":  # fmt: skip
        """Share `total` out. rounds=0: as many as buffers of that size allow; buffer=0: as large as rounds allow."""
        rounds = rounds or total // buffer - 1
        per_round = buffer or total // (rounds + 1)
        on_policy = steps * batch if objective.on_policy else 0
        left = per_round - on_policy
        return cls(
            total=total,
            rounds=rounds,
            per_round=per_round,
            on_policy=on_policy,
            buffer=left if objective.buffered else min(left, PROBE * peptides),
            peptides=peptides,
        )

    def check(self, objective: ObjectiveConfig, buffer: int) -> None:
        """Raises: ValueError unless all rounds, with the `buffer` that the user gave, and a last draw can be paid."""
        at_least = LEAST_DRAWS * self.peptides
        if self.rounds < 1 or self.per_round < at_least or self.total < (self.rounds + 1) * self.per_round:
            rounds, least = max(self.rounds, 1), max(buffer, at_least)
            raise ValueError(
                f"budget={self.total} is too small for {rounds} rounds with a buffer of {least} energies each, and a "
                f"last draw as large: give budget={(rounds + 1) * least} or more, or a smaller buffer="
            )
        if objective.on_policy and self.on_policy > self.per_round - at_least:
            raise ValueError(
                f"objective {objective.name} draws at each step: steps × batch = {self.on_policy} energies a round, of "
                f"{self.per_round}, and {at_least} draws are needed besides: give "
                f"budget={(self.rounds + 1) * (self.on_policy + at_least)} or more, or lower steps or batch"
            )

    def check_smc(self, n: int, config: SMCConfig) -> None:
        """Raises: ValueError unless a buffer pays for one step of SMC with `n` particles."""
        cost = n * (2 + config.evaluations_per_step)  # its draw, its gradient there, and one step of each
        if n < LEAST_DRAWS or cost > self.share:
            raise ValueError(
                f"smc_particles={n} must be {LEAST_DRAWS} or more, and one step of SMC with them takes {cost} of "
                f"the {self.share} energies of a buffer: lower smc_particles, or raise budget or buffer"
            )

    @property
    def share(self) -> int:
        """Energies of the buffer of one peptide."""
        return self.buffer // self.peptides

    def left(self, energies: int) -> int:
        """Energies left after the optimiser steps of a round, of which `energies` had been spent when it was drawn."""
        return self.total - energies - self.on_policy

    @property
    def until_judged(self) -> int:
        """Energies that are spent when a first round of learning is judged."""
        return self.per_round + self.buffer

    def steps_within(self, batch: int) -> int:
        """Optimiser steps a round whose own draws, `batch` each, leave enough energies to judge the flow by."""
        judged = max(LEAST_DRAWS * self.peptides, min(PROBE * self.peptides, self.per_round // 2))
        return (self.per_round - judged) // batch
