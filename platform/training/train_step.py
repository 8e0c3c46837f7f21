"""One optimiser step, and the state that must survive between two of them. Knows torch, not Ray."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from boltzray.models.flow import Flow
from boltzray.models.optimizer import make_optimizer
from boltzray.models.products import uses_bf16
from boltzray.models.tables import PeptideTables

from ..data.collate import CollatedBatch

FAR = 5.0  # log-weights further than this from their mean count linearly


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of the optimiser, of what it minimises, and of how a step is computed.

    `energy_weight`: of the energy term, beside the negative log-likelihood: see `log_weight_spread`. It wants frames of
    the force field and temperature that are sampled, and costs an energy each time that a frame is read.

    `batch`: frames a step over all workers, of which each worker takes its own in `accumulate` microbatches.
    `precision`: of matrix products, `auto` for bf16 where the hardware has it; densities and weights stay float32.
    `checkpointing`: compute activations twice to store fewer of them.
    `optimizer`: `adamw`, or `muon` for the matrices of transformer layers beside it, at a tenth of the rate.
    `added_only`: with `init` of a narrower vocabulary, train the vectors of the residues that are added alone, without
    weight decay; the densities of all others stay as they were, to the last bit.
    The rate rises from lr/500 to `lr` over `warmup_share` of the steps, and falls as a cosine.
    """

    steps: int = 500_000
    batch: int = 512
    accumulate: int = 1
    optimizer: str = "adamw"
    lr: float = 1e-4
    weight_decay: float = 4e-4
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_share: float = 0.05
    clip: float = 1.0
    ema: float = 0.999
    precision: str = "auto"
    compile: bool = False
    checkpointing: bool = False
    max_bad_steps: int = 20
    energy_weight: float = 0.0
    added_only: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "bf16", "float32"):
            raise ValueError(f"precision={self.precision!r} is unknown: choose auto, bf16 or float32")
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"optimizer={self.optimizer!r} is unknown: choose adamw or muon")
        if self.optimizer == "muon" and self.added_only:
            raise ValueError("optimizer=muon is for matrices, and added_only=true trains none: choose adamw")
        if min(self.steps, self.batch, self.accumulate, self.max_bad_steps) < 1:
            raise ValueError("steps, batch, accumulate and max_bad_steps must be at least 1")
        if not 0 <= self.energy_weight < math.inf:
            raise ValueError(f"energy_weight={self.energy_weight}: give 0, or a positive number such as 0.3")
        if not 0 < self.warmup_share < 1 or not 0 <= self.ema < 1:
            raise ValueError("warmup_share and ema are shares, between 0 and 1")


def log_weight_spread(log_w: Tensor, peptide: Tensor) -> Tensor:
    """Huber's loss (B,) of log-weights about their mean over the frames of the same peptide in the batch.

    It vanishes when log q and log π̃ differ by a constant of each peptide, and tells that of every single frame, where
    the likelihood tells it of many. Frames without a finite weight count as zero, as do those of a peptide with one.
    Far from the mean it grows linearly: few frames that the flow cannot draw yet must not decide.

    Source: log-variance loss, Richter et al. 2020 (arXiv 2010.10436), on frames of the target; Huber 1964.
    Shape: log_w, peptide (B,).
    """
    known = log_w.isfinite()
    found, group = torch.unique(peptide, return_inverse=True)  # where `peptide` is: on the CPU nothing waits for it
    group, sums = group.to(log_w.device), log_w.new_zeros(2, len(found))
    values = torch.stack([torch.where(known, log_w, 0.0), known.to(log_w)])
    total, count = sums.index_add(1, group, values)[:, group]
    spread = torch.where(known, log_w - total / count.clamp(min=1), 0.0)
    # The mean is of the same frames: n - 1 of them are free.
    return (
        F.huber_loss(spread, torch.zeros_like(spread), reduction="none", delta=FAR) * count / (count - 1).clamp(min=1)
    )


class LogDensity(nn.Module):
    """log q of a batch: the forward pass that data-parallel training wraps."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, tables: PeptideTables) -> Tensor:
        return self.flow.log_likelihood(x, self.flow.conditioning(tables))


class Learner:
    """Flow, moving average, optimiser and schedule of one worker among `world`."""

    def __init__(
        self, flow: Flow, config: TrainConfig, *, device: torch.device, model: nn.Module | None = None
    ) -> None:
        self.flow, self.config, self.device = flow.to(device), config, device
        self.bf16 = uses_bf16(config.precision, device)
        flow.activation_checkpointing = config.checkpointing
        self.model = model or LogDensity(flow)
        if config.compile:
            for layer in flow.transformer_layers:
                layer.compile(dynamic=True)  # batches differ in length
        self.ema = AveragedModel(flow, multi_avg_fn=self._average)
        self.optimizer, self.schedule = make_optimizer(
            (parameter for parameter in flow.parameters() if parameter.requires_grad),
            lr=config.lr,
            betas=config.betas,
            weight_decay=0.0 if config.added_only else config.weight_decay,
            warmup=config.warmup_share,
            steps=config.steps,
            matrices=self._matrices() if config.optimizer == "muon" else (),
        )
        self.steps_done = 0
        self.bad_in_a_row = torch.zeros((), device=device)
        self.bad = torch.zeros((), device=device)

    def train_step(self, microbatches: Sequence[CollatedBatch], world: int = 1) -> dict[str, Tensor]:
        """Take a step on this worker's batch; the statistics stay on the device, so nothing waits for them.

        `loss`: negative log-likelihood (of an ECNF, squares) per degree of freedom, over all microbatches of all
        workers. That number is known before the first backward pass, so that gradients of microbatches add up to those
        of the whole batch.
        `log_w_spread`: mean of the energy term over the frames of this worker, if there is one.
        """
        count = sum(
            3 * int(batch.tables.n_atoms.sum()) * (len(batch.x) // len(batch.tables.n_atoms)) for batch in microbatches
        )
        dof = torch.full((), float(count), device=self.device)
        if world > 1:
            torch.distributed.all_reduce(dof)
        loss, spread = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for i, batch in enumerate(microbatches):
            with self._without_sync() if world > 1 and i < len(microbatches) - 1 else nullcontext():
                likelihood, energy = self._losses(batch)
                term = (likelihood + self.config.energy_weight * energy) / dof
                (term * world).backward()  # data parallelism averages gradients over the workers; the sum is wanted
            loss, spread = loss + likelihood.detach() / dof, spread + energy.detach()
        if world > 1:
            torch.distributed.all_reduce(loss)
        norm = nn.utils.clip_grad_norm_(self.flow.parameters(), self.config.clip)
        bad = (~(torch.isfinite(norm) & torch.isfinite(loss))).float()  # the same on all workers
        self.optimizer.found_inf = bad  # type: ignore[attr-defined]  # the fused step skips itself then
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.ema.update_parameters(self.flow)
        self.bad_in_a_row = (self.bad_in_a_row + 1) * bad
        self.bad = self.bad + bad
        self.steps_done += 1
        statistics = {"loss": loss, "grad_norm": norm}
        if self.config.energy_weight:
            statistics["log_w_spread"] = spread / sum(len(batch.x) for batch in microbatches)
        return statistics

    def _losses(self, batch: CollatedBatch) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood and energy term, summed over frames."""
        x, tables = batch.x.to(self.device, non_blocking=True), batch.tables.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            log_q = self.model(x, tables)
        if not self.config.energy_weight:
            return -log_q.sum(), torch.zeros_like(log_q).sum()
        n = tables.n_atoms
        centre = -0.5 * x.sum(1).square().sum(1) / n  # of the target: see `samplers.com`
        log_w = centre - batch.energy_kT.to(self.device) - log_q.float()
        return -log_q.sum(), log_weight_spread(log_w, batch.peptide).sum()

    def _matrices(self) -> list[nn.Parameter]:
        layers = self.flow.transformer_layers
        return [parameter for layer in layers for parameter in layer.parameters() if parameter.ndim == 2]

    def _without_sync(self) -> Any:
        """Keep gradients with the worker: they are reduced once, with those of the last microbatch."""
        assert isinstance(self.model, nn.parallel.DistributedDataParallel)
        return self.model.no_sync()

    @torch.no_grad()
    def _average(self, averages: Sequence[Tensor], latest: Sequence[Tensor], _: Any) -> None:
        """Move the averages toward the latest weights: over the last tenth of the steps, until `ema` limits it.

        With `ema` alone a short run's average would mostly be its start.
        """
        kept = min(self.config.ema, (1 + self.steps_done) / (10 + self.steps_done))
        torch._foreach_lerp_(list(averages), list(latest), 1.0 - kept)

    def check(self) -> None:
        """Raises: FloatingPointError after too many steps in a row without a finite gradient."""
        if int(self.bad_in_a_row) >= self.config.max_bad_steps:
            raise FloatingPointError(
                f"{int(self.bad_in_a_row)} steps in a row had no finite loss or gradient (step {self.steps_done}): "
                "lower train.lr, or use train.precision=float32"
            )

    def state(self) -> dict[str, Any]:
        """State from which a later process goes on as if nothing had happened."""
        return {
            "flow": self.flow.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "steps_done": self.steps_done,
            "bad": self.bad,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.flow.load_state_dict(state["flow"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.steps_done = state["steps_done"]
        self.bad = state["bad"].to(self.device)
        torch.set_rng_state(state["rng"].cpu())
        if self.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)

    def averaged(self) -> Flow:
        """The flow with averaged weights: what is sampled from."""
        flow = self.ema.module
        assert isinstance(flow, Flow)
        return flow
