"""The force field on tensors: thousands of conformations at once, on CPU or GPU, with or without OpenMM."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
# Elements of one (T, N, N, L) array: on a CPU a dozen of them stay in the cache, on a GPU they fill it.
_CPU_BLOCK, _GPU_BLOCK = 2**16, 2**26
_Potential = Callable[[Tables, Tensor, bool], tuple[dict[str, Tensor], Tensor | None]]


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

    def __init__(
        self, peptide: "Peptide", temperature_k: float = 310.0, *, forcefield: str = "amber14-obc1"
    ) -> None:
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
        self._potential: _Potential = potential
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
            temperature_k = float(tables.pop("temperature_k"))
        except (ValueError, KeyError, EOFError, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(f"{path} holds no batched energy: write it with BatchedEnergy.save") from error
        energy = cls.__new__(cls)
        nn.Module.__init__(energy)
        energy._fill(temperature_k, tables)
        return energy

    def save(self, path: str | Path) -> None:
        """Write the tables and the temperature as .npz, in the module's precision."""
        tables = {name: buffer.numpy(force=True) for name, buffer in self.named_buffers()}
        with Path(path).open("wb") as file:
            np.savez(file, allow_pickle=False, temperature_k=np.array(self.temperature_k), **tables)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile on first use (about a minute on one core, then kept on disk): ten times faster on a CPU.

        Needs a C++ compiler on a CPU, Triton on a GPU. Arguments go to `torch.compile`.
        """
        self._potential = torch.compile(potential, *args, **({"dynamic": True} | kwargs))

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
        energy, slope = self._evaluate(x_nm.detach(), gradient)
        limit = torch.finfo(torch.float32).max  # the same in either precision, and in OpenMM's
        centred = x_nm.detach() - x_nm.detach().mean(1, keepdim=True)
        ok = (energy.abs() <= limit) & (centred.abs() <= MAX_RADIUS_NM).all(-1).all(-1)
        if slope is not None:
            ok = ok & (slope.abs() <= limit).all(-1).all(-1)
            slope = torch.where(ok[:, None, None], slope, 0.0)
        return TensorEnergyBatch(torch.where(ok, energy, torch.inf), slope, ok)

    @torch.no_grad()
    def terms(self, x_nm: Tensor) -> dict[str, Tensor]:
        """Energy by force, as OpenMM calls them (both kinds of generalised Born: `GBForce`). Units: kT."""
        self._check(x_nm)
        parts = [self._potential(self._tables(), tile, False)[0] for tile, _ in self._tiles(x_nm)]
        return {
            name: torch.cat([part[name].reshape(-1) for part in parts])[: len(x_nm)] / self.kt
            for name in parts[0]
        }

    def _tables(self) -> dict[str, Tensor]:
        return dict(self.named_buffers())

    def _check(self, x_nm: Tensor) -> None:
        if x_nm.ndim != 3 or x_nm.shape[1:] != (self.n_atoms, 3):
            raise ValueError(f"x_nm has shape {tuple(x_nm.shape)}: give (B, {self.n_atoms}, 3), in nm")
        if not x_nm.is_floating_point():
            raise ValueError(f"x_nm has dtype {x_nm.dtype}: give floating-point numbers")

    @torch.no_grad()
    def _evaluate(self, x_nm: Tensor, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Energy and gradient as they come, on the device of x, in the precision of the module."""
        tables = self._tables()
        energy = torch.empty(len(x_nm), dtype=tables["mass"].dtype, device=x_nm.device)
        slope = torch.empty(x_nm.shape, dtype=energy.dtype, device=x_nm.device) if gradient else None
        for tile, rows in self._tiles(x_nm):
            energies, tile_slope = self._potential(tables, tile, gradient)
            count = len(energy[rows])
            energy[rows] = (sum(energies.values()) / self.kt).reshape(-1)[:count]
            if slope is not None and tile_slope is not None:
                by_row = tile_slope.permute(0, 3, 2, 1).reshape(-1, self.n_atoms, 3)
                slope[rows] = by_row[:count].to(slope.device) / self.kt
        return energy, slope

    def _tiles(self, x_nm: Tensor) -> Iterator[tuple[Tensor, slice]]:
        """Centred conformations as (T, 3, N, L), the last ones repeated to fill up, and their rows."""
        mass = self._tables()["mass"]
        pairs = self.n_atoms**2
        on_gpu = mass.device.type != "cpu"
        # At least two tiles: torch.compile makes a special case of a size of one.
        block = max(1, _GPU_BLOCK // pairs) if on_gpu else _LANES * max(2, _CPU_BLOCK // _LANES // pairs)
        for start in range(0, len(x_nm), block):
            rows = slice(start, min(start + block, len(x_nm)))
            x = x_nm[rows].to(mass.device, torch.promote_types(x_nm.dtype, mass.dtype))
            x = (x - x.mean(1, keepdim=True)).to(mass.dtype)
            lanes = len(x) if on_gpu else _LANES
            count = lanes if on_gpu else lanes * max(2, -(-len(x) // lanes))
            if count > len(x):
                x = torch.cat([x, x[-1:].expand(count - len(x), -1, -1)])
            tile = x.reshape(-1, lanes, self.n_atoms, 3).permute(0, 3, 2, 1).contiguous()
            if not on_gpu:
                torch._dynamo.mark_static(tile, 3)
            yield tile, rows


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_nm: Tensor, module: BatchedEnergy) -> Tensor:
        energy, slope = module._evaluate(x_nm, gradient=ctx.needs_input_grad[0])
        ctx.save_for_backward(slope)
        ctx.dtype = x_nm.dtype
        return energy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_energy: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return (by_energy[:, None, None] * slope).to(ctx.dtype), None
