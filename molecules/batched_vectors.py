"""Vectors as three tensors (T, N, L), so that a compiler sees no axis of length three."""

from torch import Tensor

Vector = tuple[Tensor, Tensor, Tensor]


def take(x: Vector, index: Tensor) -> Vector:
    """The atoms of an index."""
    return vector([c[:, index] for c in x])


def vector(parts: "list[Tensor] | tuple[Tensor, ...]") -> Vector:
    """Three coordinates as a vector."""
    a, b, c = parts
    return a, b, c


def per_row(table: Tensor) -> Tensor:
    """A table by atom or term (M,), against (T, M, L)."""
    return table[:, None]


def per_pair(table: Tensor) -> Tensor:
    """A table by pair (N, N), against (T, N, N, L)."""
    return table[:, :, None]


def at_i(x: Tensor) -> Tensor:
    """(T, N, L) as the first atom of each pair."""
    return x[:, :, None]


def at_j(x: Tensor) -> Tensor:
    """(T, N, L) as the second atom of each pair."""
    return x[:, None]


def minus(a: Vector, b: Vector) -> Vector:
    """a − b."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def plus(a: Vector, b: Vector) -> Vector:
    """a + b."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def scaled_by(s: Tensor | float, a: Vector) -> Vector:
    """s a."""
    return s * a[0], s * a[1], s * a[2]


def dot(a: Vector, b: Vector) -> Tensor:
    """a · b."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Vector, b: Vector) -> Vector:
    """a × b."""
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )
