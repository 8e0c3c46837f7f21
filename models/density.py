"""What samplers ask of a flow besides `log_prob` and `sample`."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .conditioning import Conditioning
from .flow import Flow


@contextmanager
def frozen(flow: Flow) -> Iterator[None]:
    """Within it no parameter asks for a gradient, so that the graph keeps no activation for one."""
    trained = [p for p in flow.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def log_prob_and_gradient(flow: Flow, x: Tensor, c: Conditioning, ratio: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-density and its gradient with respect to the coordinates; nothing is kept for parameters' gradients.

    `ratio` as in `Flow.push`.
    Shape: x (B, N, 3) normalised → (B,), (B, N, 3). `c` is made without gradients (`flow.condition`).
    """
    with torch.enable_grad(), frozen(flow):
        x = x.detach().requires_grad_()
        log_q = flow.log_prob(x, c, ratio)
        (gradient,) = torch.autograd.grad(log_q.sum(), x)
    return log_q.detach(), gradient
