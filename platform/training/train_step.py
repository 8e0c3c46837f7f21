"""One optimiser step, and the state that must survive between two of them. Knows torch, not Ray."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from boltzray.models.flow import Flow
from boltzray.models.optimizer import make_optimizer
from boltzray.models.tables import PeptideTables


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of the optimiser, and of how a step is computed.

    `batch`: frames a step over all workers, of which each worker takes its own in `accumulate` microbatches.
    `precision`: of matrix products; densities and weights stay float32. `checkpointing`: compute activations twice
    to store fewer of them.
    The rate rises from lr/500 to `lr` over `warmup_share` of the steps, and falls as a cosine.
    """

    steps: int = 500_000
    batch: int = 512
    accumulate: int = 1
    lr: float = 1e-4
    weight_decay: float = 4e-4
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_share: float = 0.05
    clip: float = 1.0
    ema: float = 0.999
    precision: str = "bf16"
    compile: bool = False
    checkpointing: bool = False
    max_bad_steps: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.precision not in ("bf16", "float32"):
            raise ValueError(f"precision={self.precision!r} is unknown: choose bf16 or float32")
        if min(self.steps, self.batch, self.accumulate, self.max_bad_steps) < 1:
            raise ValueError("steps, batch, accumulate and max_bad_steps must be at least 1")
        if not 0 < self.warmup_share < 1 or not 0 <= self.ema < 1:
            raise ValueError("warmup_share and ema are shares, between 0 and 1")


class LogDensity(nn.Module):
    """log q of a batch: the forward pass that data-parallel training wraps."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, tables: PeptideTables) -> Tensor:
        return self.flow.log_prob(x, self.flow.conditioning(tables))


class Learner:
    """Flow, moving average, optimiser and schedule of one worker among `world`."""

    def __init__(
        self, flow: Flow, config: TrainConfig, *, device: torch.device, model: nn.Module | None = None
    ) -> None:
        self.flow, self.config, self.device = flow.to(device), config, device
        flow.activation_checkpointing = config.checkpointing
        self.model = model or LogDensity(flow)
        if config.compile:
            for layer in flow.transformer_layers:
                layer.compile(dynamic=True)  # batches differ in length
        self.ema = AveragedModel(flow, multi_avg_fn=self._average)
        self.optimizer, self.schedule = make_optimizer(
            flow.parameters(),
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            warmup=config.warmup_share,
            steps=config.steps,
        )
        self.steps_done = 0
        self.bad_in_a_row = torch.zeros((), device=device)
        self.bad = torch.zeros((), device=device)

    def step(self, x: Tensor, tables: PeptideTables, world: int = 1) -> dict[str, Tensor]:
        """Take a step on a batch that is one microbatch."""
        return self.train_step([(x, tables)], world)

    def train_step(self, microbatches: Sequence[tuple[Tensor, PeptideTables]], world: int = 1) -> dict[str, Tensor]:
        """Take a step on this worker's batch; the statistics stay on the device, so nothing waits for them.

        Loss: negative log-likelihood per degree of freedom, over all microbatches of all workers. That number is
        known before the first backward pass, so that gradients of microbatches add up to those of the whole batch.
        """
        count = sum(3 * int(tables.n_atoms.sum()) * (len(x) // len(tables.n_atoms)) for x, tables in microbatches)
        dof = torch.full((), float(count), device=self.device)
        if world > 1:
            torch.distributed.all_reduce(dof)
        loss = torch.zeros((), device=self.device)
        for i, (x, tables) in enumerate(microbatches):
            with self._without_sync() if world > 1 and i < len(microbatches) - 1 else nullcontext():
                term = self._loss(x, tables) / dof
                (term * world).backward()  # data parallelism averages gradients over the workers; the sum is wanted
            loss = loss + term.detach()
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
        return {"loss": loss, "grad_norm": norm}

    def _loss(self, x: Tensor, tables: PeptideTables) -> Tensor:
        """Negative log-likelihood, summed over frames."""
        x, tables = x.to(self.device, non_blocking=True), tables.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return -self.model(x, tables).sum()

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
