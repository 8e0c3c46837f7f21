"""Optimiser and schedule that training and finetuning have in common."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

OTHERS = 0.1  # rate of AdamW next to that of Muon


class MuonAdamW(Optimizer):
    """Muon for the matrices of transformer layers, AdamW at a tenth of the rate for all other weights.

    Muon's momentum is 0.95 (Nesterov); its updates are scaled to the size that AdamW's have.
    Source: Jordan et al. 2024; Liu et al. 2025 (arXiv 2502.16982); Robin (arXiv 2606.27361).
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        self.parts = (
            torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            AdamW(others, lr=OTHERS * lr, betas=betas, weight_decay=weight_decay, fused=True),
        )
        self.found_inf: torch.Tensor | None = None
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step, unless `found_inf` says that gradients are not finite; it waits for the device."""
        if self.found_inf is None or not self.found_inf:
            for part in self.parts:
                part.step()

    def state_dict(self) -> dict[str, Any]:
        """State of both, in turn."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of both."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    warmup: float,
    steps: int,
    matrices: Sequence[nn.Parameter] = (),
) -> tuple[Optimizer, OneCycleLR]:
    """AdamW, and a rate that rises from lr/500 to `lr` over the fraction `warmup` of `steps` and falls as a cosine.

    With `matrices`, which are among the parameters: Muon for these.
    """
    optimizer: Optimizer
    if matrices:
        chosen = {id(matrix) for matrix in matrices}
        others = [parameter for parameter in parameters if id(parameter) not in chosen]
        optimizer = MuonAdamW(matrices, others, lr=lr, betas=betas, weight_decay=weight_decay)
    else:
        optimizer = AdamW(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
    schedule = OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=steps + 1,  # the schedule also advances after the last step
        pct_start=warmup,
        div_factor=500,
        final_div_factor=1,
        cycle_momentum=False,  # betas stay as given
    )
    return optimizer, schedule
