"""Optimiser and schedule that training and finetuning have in common."""

from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    warmup: float,
    steps: int,
) -> tuple[AdamW, OneCycleLR]:
    """AdamW, and a rate that rises from lr/500 to `lr` over the fraction `warmup` of `steps` and falls as a cosine."""
    optimizer = AdamW(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
    schedule = OneCycleLR(
        optimizer,
        max_lr=lr,
        total_steps=steps + 1,  # the schedule also advances after the last step
        pct_start=warmup,
        div_factor=500,
        final_div_factor=1,
        cycle_momentum=False,  # betas stay as given
    )
    return optimizer, schedule
