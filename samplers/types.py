"""Types shared by all samplers: the densities at a point, and particles that carry them.

Shape suffixes: B particles of a block, N atoms, 3 coordinates.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Endpoints(NamedTuple):
    """Both ends of the path at x: proposal log q, target log π̃, and their gradients.

    A conformation that cannot be evaluated is a value, not an exception: ok False, log_p = −inf.
    Shape: log_q, log_p (B,) float64; grad_q, grad_p (B, N, 3), or None where nothing will move; ok (B,) bool.
    Units: normalised coordinates, energies in kT.
    """

    log_q: Tensor
    log_p: Tensor
    grad_q: Tensor | None
    grad_p: Tensor | None
    ok: Tensor


class Evaluate(Protocol):
    """Density and gradient of both ends at x (B, N, 3), in one call: one energy evaluation per particle."""

    def __call__(self, x: Tensor, /) -> Endpoints: ...


class Particles(NamedTuple):
    """Positions with the densities and gradients there, so that a move costs one evaluation.

    Invariant (kept by `evaluate_particles`): everything but log_p is finite; log_p = −inf exactly where not
    ok.
    Shape: x, grad_q, grad_p (B, N, 3) in the dtype of x; log_q, log_p (B,) float64; ok (B,) bool.
    """

    x: Tensor
    log_q: Tensor
    log_p: Tensor
    grad_q: Tensor
    grad_p: Tensor
    ok: Tensor

    def log_gamma(self, lam: float) -> Tensor:
        """(1 − λ) log q + λ log π̃; at λ = 0 a failed conformation still has its log q."""
        if lam == 0.0:
            return self.log_q
        return (1.0 - lam) * self.log_q + lam * self.log_p

    def grad_gamma(self, lam: float) -> Tensor:
        """Gradient of `log_gamma`, float64; zero where not ok."""
        return (1.0 - lam) * self.grad_q.double() + lam * self.grad_p.double()

    def rows(self, index: Tensor | slice) -> "Particles":
        """The particles at `index`."""
        return Particles(*(part[index] for part in self))

    def where(self, mask: Tensor, other: "Particles") -> "Particles":
        """These particles where `mask` (B,), the `other` ones elsewhere."""
        pairs = zip(self, other, strict=True)
        return Particles(*(torch.where(mask.view(-1, *[1] * (mine.ndim - 1)), mine, its) for mine, its in pairs))

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays for a checkpoint, or for sending between processes."""
        return {name: part.cpu().numpy() for name, part in self._asdict().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], device: torch.device | str = "cpu") -> "Particles":
        """The inverse of `to_arrays`, bit for bit."""
        return cls(*(torch.tensor(arrays[name], device=device) for name in cls._fields))


def concatenate(parts: list[Particles]) -> Particles:
    """Particles of all `parts`, in order."""
    return Particles(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def evaluate_particles(x: Tensor, evaluate: Evaluate) -> Particles:
    """Evaluate x and fail softly: whatever is not finite makes its particle not ok.

    Raises: ValueError if `evaluate` returns no gradients or wrong shapes.
    """
    log_q, log_p, grad_q, grad_p, ok = evaluate(x)
    if grad_q is None or grad_p is None:
        raise ValueError("moving particles needs gradients: let evaluate(x) return grad_q and grad_p")
    shapes = [tuple(part.shape) for part in (log_q, log_p, ok, grad_q, grad_p)]
    expected = [(len(x),)] * 3 + [tuple(x.shape)] * 2
    if shapes != expected:
        raise ValueError(f"evaluate(x) returned shapes {shapes} for log_q, log_p, ok, grad_q, grad_p; give {expected}")
    log_q, log_p = log_q.detach().to(x.device, torch.float64), log_p.detach().to(x.device, torch.float64)
    grad_q, grad_p = grad_q.detach().to(x), grad_p.detach().to(x)
    finite = [torch.isfinite(part).flatten(1).all(1) for part in (x, grad_q, grad_p)]
    ok = ok.to(x.device) & torch.isfinite(log_q) & torch.isfinite(log_p)
    ok = ok & finite[0] & finite[1] & finite[2]
    keep = ok.view(-1, *[1] * (x.ndim - 1))
    return Particles(
        x=x,
        # log q of a failed conformation is read at λ = 0 only; zero stands for "unknown", never NaN.
        log_q=torch.where(torch.isfinite(log_q), log_q, 0.0),
        log_p=torch.where(ok, log_p, -torch.inf),
        grad_q=torch.where(keep, grad_q, 0.0),
        grad_p=torch.where(keep, grad_p, 0.0),
        ok=ok,
    )
