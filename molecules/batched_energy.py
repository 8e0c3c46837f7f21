"""The force field on tensors: thousands of conformations at once, on CPU or GPU, with or without OpenMM."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from molecules.batched_terms import Tables, potential

if TYPE_CHECKING:
    from molecules.peptide import Peptide

KB = 8.31446261815324e-3  # kJ/mol/K, as in molecules.forcefield, which needs OpenMM
MAX_RADIUS_NM = 100.0  # as in molecules.energy
# Conformations that lie side by side on a CPU: one AVX-512 register of float32.
_LANES = 16
# Batches are filled up to multiples of this. Eager torch works on pairs of registers and treats what is left
# over with other code, whose last bits differ: a row's result would depend on its place in the batch.
_FILL = 32
# Elements of one (T, N, N, L) array: on a CPU a dozen of them stay in the cache, on a GPU they fill it.
_CPU_BLOCK, _GPU_BLOCK = 2**16, 2**25
_FIXED_COLUMNS = ("bond_atoms", "angle_atoms", "torsion_atoms", "torsion_cos", "torsion_sin")
_Potential = Callable[[Tables, Tensor, bool], tuple[dict[str, Tensor], Tensor | None]]


@cache
def _compiled() -> _Potential:
    """One function for all peptides: atoms, terms and conformations are symbols in it."""
    return torch.compile(potential, dynamic=True)


@dataclass(frozen=True, eq=False)
class TensorEnergyBatch:
    """`EnergyBatch` on tensors: where `ok` is False, energy is +inf and gradient 0.

    Shape: energy (B,), gradient (B, N, 3) or None when not asked for, ok (B,) bool. Units: kT, kT/nm.
    """

    energy: Tensor
    gradient: Tensor | None
    ok: Tensor


class BatchedEnergy(nn.Module):
    """The energy of one peptide at one temperature, of whole batches.

    Works in the precision and on the device of the module: float64 on the CPU to begin with, `.to(...)` for
    others; float32 is twice as fast on a CPU and far more on a GPU, and exact to 1e-4. Runs eagerly unless
    told to `compile`.
    """

    mass: Tensor  # (N,) Da; the other tables are buffers, too

    def __init__(self, peptide: "Peptide", temperature_k: float = 310.0, *, forcefield: str = "amber14-obc1") -> None:
        from molecules.batched_tables import read_system  # needs OpenMM
        from molecules.forcefield import create_system

        super().__init__()
        if not 0 < temperature_k < np.inf:
            raise ValueError(f"temperature_k={temperature_k}: give a positive number of kelvin")
        self._fill(temperature_k, read_system(create_system(peptide, forcefield)))

    def _fill(self, temperature_k: float, tables: dict[str, Any]) -> None:
        self.temperature_k = temperature_k
        self.kt = KB * temperature_k
        self.n_atoms = len(tables["mass"])
        self._compiled = False
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(np.array(table)))

    @classmethod
    def load(cls, path: str | Path) -> "BatchedEnergy":
        """Read what `save` wrote; needs no OpenMM.

        Raises: ValueError if the file is something else.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                tables = {name: arrays[name] for name in arrays.files}
            energy = cls.__new__(cls)
            nn.Module.__init__(energy)
            energy._fill(float(tables.pop("temperature_k")), tables)
        except (ValueError, TypeError, KeyError, EOFError, AttributeError, BadZipFile) as error:
            raise ValueError(f"{path} holds no batched energy: write it with BatchedEnergy.save") from error
        return energy

    def save(self, path: str | Path) -> None:
        """Write the tables and the temperature as .npz, in the module's precision."""
        tables: dict[str, Any] = {name: buffer.numpy(force=True) for name, buffer in self.named_buffers()}
        with Path(path).open("wb") as file:
            np.savez(file, temperature_k=np.array(self.temperature_k), **tables)

    def compile(self) -> None:
        """Use compiled code from now on: on a CPU five times as fast, and far less memory traffic on a GPU.

        Compiles on the first call (a minute on one core, less when torch finds it in its cache on disk), once
        for all peptides. Needs a C++ compiler on a CPU, Triton on a GPU. From 70 atoms on, glibc's habit of
        handing big blocks back to the system costs up to half of the speed: set MALLOC_TRIM_THRESHOLD_ and
        MALLOC_MMAP_THRESHOLD_ to 1000000000 in the environment of the process.
        """
        self._compiled = True

    def forward(self, x_nm: Tensor) -> Tensor:
        """Energy, differentiable once. What is not finite stays so.

        Shape: x_nm (B, N, 3) → (B,). Units: nm → kT. Raises: ValueError for another shape or dtype.
        """
        self._check(x_nm)
        return cast(Tensor, _Differentiable.apply(x_nm, self))

    def evaluate(self, x_nm: Tensor, gradient: bool = True) -> TensorEnergyBatch:
        """Energy, and gradient if asked for, of every conformation. A row's result depends on that row only.

        A row that has NaN or inf, coincident atoms, an atom beyond `MAX_RADIUS_NM` of the mean, or an energy
        or force beyond the range of float32, comes back with `ok` False.

        Shape: x_nm (B, N, 3), floating, on any device. Units: nm in, kT and kT/nm out.
        Raises: ValueError for another shape or dtype.
        """
        self._check(x_nm)
        energy, slope = self.unchecked(x_nm.detach(), gradient)
        limit = torch.finfo(torch.float32).max  # the same in either precision, and in OpenMM's
        centred = x_nm.detach() - x_nm.detach().mean(1, keepdim=True)
        ok = (energy.abs() <= limit) & (centred.abs() <= MAX_RADIUS_NM).all(-1).all(-1)
        if slope is not None:
            ok = ok & (slope.abs() <= limit).all(-1).all(-1)
            slope = torch.where(ok[:, None, None], slope, 0.0)
        return TensorEnergyBatch(torch.where(ok, energy, torch.inf), slope, ok)

    @torch.no_grad()
    def unchecked(self, x_nm: Tensor, gradient: bool = True) -> tuple[Tensor, Tensor | None]:
        """Energy and gradient as they come: not finite where they are not, and beyond all bounds.

        Shape: x_nm (B, N, 3) → (B,), (B, N, 3) or None. Units: nm → kT, kT/nm.
        """
        dtype = self.mass.dtype
        energy = torch.empty(len(x_nm), dtype=dtype, device=x_nm.device)
        slope = torch.empty(x_nm.shape, dtype=dtype, device=x_nm.device) if gradient else None
        for rows, energies, tile_slope in self._run(x_nm, gradient):
            count = len(energy[rows])
            energy[rows] = torch.stack(list(energies.values())).sum(0).reshape(-1)[:count] / self.kt
            if slope is not None and tile_slope is not None:
                by_row = tile_slope.permute(0, 3, 2, 1).reshape(-1, self.n_atoms, 3)
                slope[rows] = by_row[:count] / self.kt
        return energy, slope

    @torch.no_grad()
    def terms(self, x_nm: Tensor) -> dict[str, Tensor]:
        """Energy (B,) by force, as OpenMM calls them (both kinds of generalised Born: `GBForce`). Units: kT."""
        self._check(x_nm)
        parts = [energies for _, energies, _ in self._run(x_nm, gradient=False)]
        return {name: torch.cat([part[name].reshape(-1) for part in parts])[: len(x_nm)] / self.kt for name in parts[0]}

    def _run(self, x_nm: Tensor, gradient: bool) -> Iterator[tuple[slice, dict[str, Tensor], Tensor | None]]:
        """Rows, energies and gradient of one block of tiles after the other."""
        function = _compiled() if self._compiled else potential
        tables = dict(self.named_buffers())
        if self._compiled:
            _mark_static(*(tables[name] for name in _FIXED_COLUMNS), dims=(1,))
            _mark_static(tables["born_constants"], dims=(0,))
        for rows, tile in self._tiles(x_nm):
            if self._compiled:
                _mark_static(tile, dims=(1, 3) if tile.device.type == "cpu" else (1,))
            yield rows, *function(tables, tile, gradient)

    def _check(self, x_nm: Tensor) -> None:
        if x_nm.ndim != 3 or x_nm.shape[1:] != (self.n_atoms, 3):
            raise ValueError(f"x_nm has shape {tuple(x_nm.shape)}: give (B, {self.n_atoms}, 3), in nm")
        if not x_nm.is_floating_point():
            raise ValueError(f"x_nm has dtype {x_nm.dtype}: give floating-point numbers")

    def _tiles(self, x_nm: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Rows, and their centred conformations as (T, 3, N, L), the last one repeated to fill up."""
        mass = self.mass
        pairs = self.n_atoms**2
        on_gpu = mass.device.type != "cpu"
        block = max(1, _GPU_BLOCK // pairs) if on_gpu else _FILL * max(1, _CPU_BLOCK // _FILL // pairs)
        for start in range(0, len(x_nm), block):
            rows = slice(start, min(start + block, len(x_nm)))
            x = x_nm[rows].to(mass.device, torch.promote_types(x_nm.dtype, mass.dtype))
            x = (x - x.mean(1, keepdim=True)).to(mass.dtype)
            # At least two: torch.compile makes a special case of a size of one.
            lanes = max(2, len(x)) if on_gpu else _LANES
            count = lanes if on_gpu else _FILL * -(-len(x) // _FILL)
            if count > len(x):
                x = torch.cat([x, x[-1:].expand(count - len(x), -1, -1)])
            yield rows, x.reshape(-1, lanes, self.n_atoms, 3).permute(0, 3, 2, 1).contiguous()


def _mark_static(*tensors: Tensor, dims: tuple[int, ...]) -> None:
    """Tell torch.compile that these sizes are the same for every peptide and batch; the others are not."""
    for tensor in tensors:
        for dim in dims:
            torch._dynamo.mark_static(tensor, dim)


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_nm: Tensor, module: BatchedEnergy) -> Tensor:
        energy, slope = module.unchecked(x_nm, gradient=ctx.needs_input_grad[0])
        ctx.save_for_backward(slope)
        ctx.dtype = x_nm.dtype
        return energy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_energy: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return (by_energy[:, None, None] * slope).to(ctx.dtype), None
