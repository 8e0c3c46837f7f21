"""What samplers ask of a flow besides `log_prob` and `sample`."""

import torch
from torch import Tensor

from models.flow import Conditioning, Flow


def log_prob_and_gradient(flow: Flow, x: Tensor, c: Conditioning) -> tuple[Tensor, Tensor]:
    """Log-density and its gradient with respect to the coordinates.

    Shape: x (B, N, 3) normalised → (B,), (B, N, 3). Parameters get no gradient; freeze them
    (`flow.requires_grad_(False)`) so that nothing is kept for one either.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        log_q = flow.log_prob(x, c)
        (gradient,) = torch.autograd.grad(log_q.sum(), x)
    return log_q.detach(), gradient
