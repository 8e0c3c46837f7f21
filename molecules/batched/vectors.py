"""Vectors as three tensors (T, N, L), so that a compiler sees no axis of length three."""

from torch import Tensor

Vector = tuple[Tensor, Tensor, Tensor]


def take(x: Vector, index: Tensor) -> Vector:
    """The atoms of an index (M,), or of one for every conformation (T, M, L)."""
    if index.ndim == 1:
        return vector([c[:, index] for c in x])
    return vector([c.gather(1, index) for c in x])


def vector(parts: "list[Tensor] | tuple[Tensor, ...]") -> Vector:
    """Three coordinates as a vector."""
    a, b, c = parts
    return a, b, c


def per_row(table: Tensor) -> Tensor:
    """A table by atom or term, (M,) or for every conformation (T, M, L), against (T, M, L)."""
    return table[None, :, None] if table.ndim == 1 else table


def per_pair(table: Tensor) -> Tensor:
    """A table by pair, (N, N) or for every conformation (T, N, N, L), against (T, N, N, L)."""
    return table[:, :, None] if table.ndim == 2 else table


def columns(table: Tensor) -> tuple[Tensor, ...]:
    """The columns of a table by term, (M, k) or for every conformation (T, M, k, L)."""
    return table.unbind(1 if table.ndim == 2 else 2)


def diagonal(table: Tensor) -> Tensor:
    """A table by pair as one by atom, against (T, N, L)."""
    return per_row(table.diagonal()) if table.ndim == 2 else table.diagonal(dim1=1, dim2=2).transpose(1, 2)


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
