"""The force field on tensors: thousands of conformations at once, on CPU or GPU, with or without OpenMM."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..constants import KB, PUBLISHED_K
from ..energy_batch import MAX_RADIUS_NM, EnergyBatch, TensorEnergyBatch, checked_positions
from ..storage import BAD_ARCHIVE
from .tiles import blocks, evaluate_tile, tiled, try_compile, untiled

if TYPE_CHECKING:
    import openmm

    from ..peptide import Peptide


class BatchedEnergy(nn.Module):
    """The energy of one peptide at one temperature, of whole batches.

    Works in the precision and on the device of the module: float64 on the CPU to begin with, `.to(...)` for
    others; float32 is twice as fast on a CPU and far more on a GPU, and exact to 1e-4. Runs eagerly unless
    told to `compile`.
    """

    mass: Tensor  # (N,) Da; the other tables are buffers, too, those that the System has

    def __init__(
        self,
        peptide: "Peptide",
        temperature_k: float = PUBLISHED_K,
        *,
        forcefield: str = "amber14-obc1",
        hydrogen_mass_da: float | None = None,
    ) -> None:
        from ..forcefield import create_system
        from .tables import read_system  # needs OpenMM

        super().__init__()
        _check_temperature(temperature_k)
        self._fill(temperature_k, read_system(create_system(peptide, forcefield, hydrogen_mass_da)))

    @classmethod
    def of_system(cls, system: "openmm.System", temperature_k: float = PUBLISHED_K) -> "BatchedEnergy":
        """The energy of an OpenMM System of any molecule, of any force field whose forces are known here.

        Raises: ValueError that names a force, or a feature of one, that is not: `OpenMMEnergy` has them all.
        """
        from .tables import read_system  # needs OpenMM

        _check_temperature(temperature_k)
        return cls._of_tables(temperature_k, read_system(system))

    @classmethod
    def _of_tables(cls, temperature_k: float, tables: dict[str, Any]) -> "BatchedEnergy":
        energy = cls.__new__(cls)
        nn.Module.__init__(energy)
        energy._fill(temperature_k, tables)
        return energy

    def _fill(self, temperature_k: float, tables: dict[str, Any]) -> None:
        self.temperature_k = temperature_k
        self.kt = KB * temperature_k
        self.n_atoms = len(tables["mass"])
        self.compiled = False
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
            energy = cls._of_tables(float(tables.pop("temperature_k")), tables)
        except FileNotFoundError:
            raise
        except (*BAD_ARCHIVE, AttributeError) as error:
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
        self.compiled = True

    def try_compile(self, x_nm: Tensor) -> str | None:
        """`compile` if that works here, tried on x (B, N, 3); else stay eager and return why in one line."""
        return try_compile(self, x_nm)

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

    def evaluate_arrays(self, x_nm: npt.ArrayLike, gradient: bool = True) -> EnergyBatch:
        """`evaluate` with arrays in and float64 arrays out, as `OpenMMEnergy.evaluate`."""
        x = torch.from_numpy(checked_positions(x_nm, self.n_atoms))
        return self.evaluate(x, gradient).arrays()

    @torch.no_grad()
    def unchecked(self, x_nm: Tensor, gradient: bool = True) -> tuple[Tensor, Tensor | None]:
        """Energy and gradient as they come: not finite where they are not, and beyond all bounds.

        Shape: x_nm (B, N, 3) → (B,), (B, N, 3) or None. Units: nm → kT, kT/nm.
        """
        dtype = self.mass.dtype
        energy = torch.empty(len(x_nm), dtype=dtype, device=x_nm.device)
        slope = torch.empty(x_nm.shape, dtype=dtype, device=x_nm.device) if gradient else None
        for rows, terms, slopes in self._run(x_nm, gradient):
            # Added up while filled up, or else the last bits would depend on the number of rows.
            total = untiled(torch.stack(list(terms.values())).sum(0), len(energy[rows]))
            energy[rows] = total / self.kt
            if slope is not None and slopes is not None:
                slope[rows] = slopes / self.kt
        return energy, slope

    @torch.no_grad()
    def terms(self, x_nm: Tensor) -> dict[str, Tensor]:
        """Energy (B,) by force, as OpenMM calls them. Units: kT.

        `GBForce` is generalised Born of any kind; `NonbondedForce` has CHARMM's Lennard-Jones forces, too, and
        `PeriodicTorsionForce` RBTorsionForce.
        """
        self._check(x_nm)
        parts = [terms for _, terms, _ in self._run(x_nm, gradient=False)]
        return {name: torch.cat([part[name].flatten() for part in parts])[: len(x_nm)] / self.kt for name in parts[0]}

    def _run(self, x_nm: Tensor, gradient: bool) -> Iterator[tuple[slice, dict[str, Tensor], Tensor | None]]:
        """Of one block after the other: rows, tiles of energies by term, gradient. Units: kJ/mol, nm."""
        mass, tables = self.mass, dict(self.named_buffers())
        for rows in blocks(len(x_nm), self.n_atoms, mass.device.type != "cpu"):
            x = x_nm[rows].to(mass.device, torch.promote_types(x_nm.dtype, mass.dtype))
            x = (x - x.mean(1, keepdim=True)).to(mass.dtype)
            terms, slope = evaluate_tile(tables, tiled(x.mT), gradient, self.compiled)
            yield rows, terms, None if slope is None else untiled(slope, len(x)).mT

    def _check(self, x_nm: Tensor) -> None:
        if x_nm.ndim != 3 or x_nm.shape[1:] != (self.n_atoms, 3):
            raise ValueError(f"x_nm has shape {tuple(x_nm.shape)}: give (B, {self.n_atoms}, 3), in nm")
        if not x_nm.is_floating_point():
            raise ValueError(f"x_nm has dtype {x_nm.dtype}: give floating-point numbers")


def _check_temperature(temperature_k: float) -> None:
    if not 0 < temperature_k < np.inf:
        raise ValueError(f"temperature_k={temperature_k}: give a positive number of kelvin")


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
