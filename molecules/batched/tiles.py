"""Conformations as tiles of lanes, and the function that evaluates a tile, eager or compiled."""

from collections.abc import Callable, Iterator
from functools import cache
from types import FunctionType
from typing import Protocol, cast

import torch
from torch import Tensor

from .terms import BONDED, Tables, potential

# Conformations that lie side by side on a CPU: one AVX-512 register of float32.
_LANES = 16
# Batches are filled up to multiples of this. Eager torch works on pairs of registers and treats what is left
# over with other code, whose last bits differ: a row's result would depend on its place in the batch.
_FILL = 32
# Elements of one (T, N, N, L) array: on a CPU a dozen of them stay in the cache, on a GPU they fill it.
_CPU_BLOCK, _GPU_BLOCK = 2**16, 2**25
# Tables by term of which each row has the same length for every peptide.
_FIXED_COLUMNS = (*(f"{kind}_atoms" for kind in BONDED), "torsion_cos", "torsion_sin", "born_series")
_FIXED_ROWS = ("born_constants", "cmap_coefficients")
_Potential = Callable[[Tables, Tensor, bool], tuple[dict[str, Tensor], Tensor | None]]


@cache
def _compiled(names: frozenset[str]) -> _Potential:
    """One function for all peptides of a force field: atoms, terms and conformations are symbols in it.

    One for each set of tables, or else torch would count them all against the eight variants that it allows of a
    function before it goes on without compiling.
    """
    function = FunctionType(potential.__code__.replace(), potential.__globals__, potential.__name__)
    return cast(_Potential, torch.compile(function, dynamic=True))


def blocks(count: int, n_atoms: int, on_gpu: bool) -> Iterator[slice]:
    """Rows to evaluate at once."""
    pairs = n_atoms**2
    block = max(1, _GPU_BLOCK // pairs) if on_gpu else _FILL * max(1, _CPU_BLOCK // _FILL // pairs)
    for start in range(0, count, block):
        yield slice(start, min(start + block, count))


def tiled(rows: Tensor) -> Tensor:
    """(B, …) → (T, …, L), contiguous; the last row is repeated to fill up."""
    on_gpu = rows.device.type != "cpu"
    # At least two: torch.compile makes a special case of a size of one.
    lanes = max(2, len(rows)) if on_gpu else _LANES
    count = lanes if on_gpu else _FILL * -(-len(rows) // _FILL)
    if count > len(rows):
        rows = torch.cat([rows, rows[-1:].expand(count - len(rows), *rows.shape[1:])])
    return rows.reshape(-1, lanes, *rows.shape[1:]).movedim(1, -1).contiguous()


def untiled(tiles: Tensor, count: int) -> Tensor:
    """(T, …, L) → the first `count` rows (B, …)."""
    return tiles.movedim(-1, 1).flatten(0, 1)[:count]


def evaluate_tile(
    tables: Tables, tile: Tensor, gradient: bool, compiled: bool
) -> tuple[dict[str, Tensor], Tensor | None]:
    """`potential`, compiled if asked for."""
    if not compiled:
        return potential(tables, tile, gradient)
    for name in tables.keys() & _FIXED_COLUMNS:
        _mark_static(tables[name], 1 if tables[name].ndim == 2 else 2)
    for name in tables.keys() & _FIXED_ROWS:
        _mark_static(tables[name], 0)
    if tile.device.type == "cpu":
        for table in [tile, *(table for table in tables.values() if table.ndim > 2)]:
            _mark_static(table, -1)
    _mark_static(tile, 1)
    return _compiled(frozenset(tables))(tables, tile, gradient)


class Compilable(Protocol):
    """An energy on tensors."""

    compiled: bool

    def unchecked(self, x_nm: Tensor, gradient: bool = True) -> tuple[Tensor, Tensor | None]: ...


def try_compile(energy: Compilable, x_nm: Tensor) -> str | None:
    """Compile, tried on x (B, N, 3) with gradient; else stay eager and return why in one line."""
    energy.compiled = True
    try:
        if not torch.cuda.is_available():
            from torch._inductor.cpp_builder import get_cpp_compiler

            get_cpp_compiler()  # fails at once, where `unchecked` would trace for a minute first
        energy.unchecked(x_nm)
    except Exception as error:  # torch has many kinds for a compiler that is not there, or not whole
        energy.compiled = False
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def _mark_static(tensor: Tensor, dim: int) -> None:
    """Tell torch.compile that this size is the same for every peptide and batch; the others are not."""
    torch._dynamo.mark_static(tensor, dim % tensor.ndim)
