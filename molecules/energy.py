"""Potential energies and gradients in kT, one conformation at a time, with OpenMM on one core."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import openmm

from .constants import KB, PUBLISHED_K
from .energy_batch import MAX_RADIUS_NM, EnergyBatch, FloatArray, checked_positions
from .forcefield import DEFAULT_FORCEFIELD, create_system, read_system_xml

if TYPE_CHECKING:
    from .peptide import Peptide

# OpenMM rebuilds its neighbour list for certain when an atom moves by more than 0.35 nm (cutoff 2 nm).
_REBUILT_NM = 0.5
_PARKED_NM = 1000.0


class OpenMMEnergy:
    """The energy of one peptide at one temperature. Pickles; not to be shared between threads.

    OpenMM's CPU platform hands each call to its own worker thread; waking that on another core costs more
    than the physics of a small peptide. So both threads are kept on `core` during a call (default: the core
    that the first call runs on), and the calling thread gets its own affinity back afterwards.
    """

    def __init__(
        self,
        peptide: "Peptide",
        temperature_k: float = PUBLISHED_K,
        *,
        forcefield: str = DEFAULT_FORCEFIELD,
        platform: str = "CPU",
        core: int | None = None,
    ) -> None:
        if not 0 < temperature_k < np.inf:
            raise ValueError(f"temperature_k={temperature_k}: give a positive number of kelvin")
        self.n_atoms = peptide.n_atoms
        self.temperature_k = temperature_k
        self._system = create_system(peptide, forcefield)
        self._platform = platform
        self._wanted_core = core
        self._context: openmm.Context | None = None  # made on first use, in the process that uses it

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_context": None}

    def evaluate(self, x_nm: npt.ArrayLike, gradient: bool = True) -> EnergyBatch:
        """Energy, and gradient if asked for, of every conformation. A row's result depends on that row only.

        A row that has NaN or inf, coincident atoms, an atom beyond `MAX_RADIUS_NM` of the mean, or an energy
        or force that is not finite, comes back with `ok` False.

        Shape: x_nm (B, N, 3), floating. Units: nm in, kT and kT/nm out.
        Raises: ValueError for another shape or dtype.
        """
        centred = _centred(x_nm, self.n_atoms)
        energy = np.full(len(centred), np.inf)
        forces = np.zeros(centred.shape) if gradient else None
        with np.errstate(invalid="ignore"):
            sane = (np.abs(centred) <= MAX_RADIUS_NM).all((1, 2))  # False for NaN, too
        rows = np.flatnonzero(sane)
        if len(rows):
            self._evaluate_rows(centred, rows, energy, forces)

        ok = np.isfinite(energy)
        if forces is not None:
            ok &= np.isfinite(forces).all((1, 2))
        energy[~ok] = np.inf
        kt = KB * self.temperature_k
        if forces is None:
            return EnergyBatch(energy / kt, None, ok)
        forces[~ok] = 0.0
        return EnergyBatch(energy / kt, forces / -kt, ok)

    def _evaluate_rows(
        self, x: FloatArray, rows: npt.NDArray[np.intp], energy: FloatArray, forces: FloatArray | None
    ) -> None:
        """Fill in the rows in kJ/mol; one that OpenMM refuses keeps its +inf."""
        if self._context is None:
            self._core = current_core() if self._wanted_core is None else self._wanted_core
        # OpenMM keeps a neighbour list over small moves, and its order shows in the last bits of the sums:
        # the answer would depend on what was asked before. Unless a row lies far enough from the last one,
        # park the atoms elsewhere first (without evaluating a force), so that every row builds its own list.
        moved = np.full(len(rows), 0.0)
        moved[1:] = np.square(x[rows[1:]] - x[rows[:-1]]).sum(-1).max(-1)
        near = moved < _REBUILT_NM**2
        parked = np.full(x.shape[1:], _PARKED_NM)
        with pinned(self._core):
            for row, park in zip(rows, near, strict=True):
                context = self._context = self._context or make_context(self._system, self._platform)
                try:
                    if park:
                        context.setPositions(parked)
                        context.getState(energy=True, groups=0)
                    context.setPositions(x[row])
                    state = context.getState(energy=True, forces=forces is not None)
                except openmm.OpenMMException:
                    self._context = None  # its state is unknown now
                    continue
                # `_value` spares the arithmetic with units, which costs as much as a small peptide's bonds.
                energy[row] = state.getPotentialEnergy()._value
                if forces is not None:
                    forces[row] = state.getForces(asNumpy=True)._value


def only_openmm(peptide: "Peptide") -> str | None:
    """Reason why the batched energy cannot evaluate the System that a molecule brings with it, if it cannot."""
    return _beyond_tensors(peptide.system_xml) if peptide.own_forcefield else None


@lru_cache(64)
def _beyond_tensors(system_xml: str) -> str | None:
    from .batched.tables import read_system  # needs torch

    try:
        read_system(read_system_xml(system_xml, "the System"))
    except ValueError as error:
        return str(error)
    return None


def make_context(
    system: openmm.System, platform: str = "CPU", integrator: openmm.Integrator | None = None
) -> openmm.Context:
    """A Context with one thread; call it inside `pinned`, so that the thread stays on that core."""
    properties = {"Threads": "1"} if platform == "CPU" else {}
    integrator = integrator or openmm.VerletIntegrator(0.001)
    return openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform), properties)


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Keep the calling thread, and threads started meanwhile, on one core; the thread is freed at the end.

    Does nothing for `None`, or where the operating system has no affinities (macOS).
    Raises: ValueError if this process may not run on that core.
    """
    if core is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)  # 0 is the calling thread, not the whole process
    try:
        os.sched_setaffinity(0, {core})
    except OSError as error:
        raise ValueError(f"core {core} cannot be used: choose one of {sorted(before)}") from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def current_core() -> int | None:
    """Core on which the calling thread runs now; None where the system does not tell (only Linux does)."""
    try:
        stat = Path("/proc/thread-self/stat").read_text()
    except OSError:
        return None
    # Field 39 of proc(5), counted after the command name, which may itself contain spaces.
    return int(stat.rpartition(")")[2].split()[36])


def _centred(x_nm: npt.ArrayLike, n_atoms: int) -> FloatArray:
    """float64 positions relative to their mean: the CPU platform works in float32."""
    x = checked_positions(x_nm, n_atoms)
    with np.errstate(invalid="ignore", over="ignore"):
        return x - x.mean(1, keepdims=True)
