"""Log-density of a flow with its gradient by the coordinates."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .conditioning import Conditioning, Precision
from .flow import Flow


@contextmanager
def frozen(flow: Flow) -> Iterator[None]:
    """Let no parameter ask for a gradient within the `with`, so that the graph keeps no activation for one."""
    trained = [p for p in flow.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def log_prob_and_gradient(
    flow: Flow, x: Tensor, c: Conditioning, temperature_ratio: float = 1.0, precision: Precision = "float32"
) -> tuple[Tensor, Tensor]:
    """Log-density and its gradient with respect to the coordinates; nothing is kept for parameters' gradients.

    `c` is made without gradients (`flow.condition`); `temperature_ratio` as in `Flow.push`. `precision` is that of
    matrix products; with `bf16` log q is hundredths of a nat off, of large trained networks more, though always the
    same at the same x: another density, which SMC may start from as well, as its first weights know the difference.

    Shape: x (B, N, 3) normalised → (B,), (B, N, 3).
    Raises: ValueError for a flow without such a gradient.
    """
    if not flow.smooth:
        raise ValueError("this flow gives no gradient of log q, as SMC and finetuning need: sample with sampler=snis")
    with torch.enable_grad(), frozen(flow):
        x = x.detach().clone().requires_grad_()  # a copy: draws are tensors of inference mode, which know no gradient
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            log_q = flow.log_prob(x, c, temperature_ratio)
        (gradient,) = torch.autograd.grad(log_q.sum(), x)
    return log_q.detach(), gradient
