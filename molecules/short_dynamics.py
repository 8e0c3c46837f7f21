"""Picoseconds of a molecule's own dynamics, which tell its usual bonds and angles; and what is wrong with its energy.

Shapes: N atoms, F frames. Units: nm.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import openmm
from openmm import app

from .bonds import LONG, bonds_of
from .energy import current_core, make_context, pinned

FloatArray = npt.NDArray[np.float64]

REPLICAS, HOT_PS, TIME_PS, INTERVAL_PS = 8, 1.0, 4.0, 0.05
HOT = 1.8  # times the temperature, for the replicas to part
SHAKE_NM, SLOPE_NM, SLOPE_OFF = 0.003, 1e-4, 0.1  # of the check of forces; the last is relative


def short_dynamics(
    system: openmm.System,
    positions_nm: FloatArray,
    temperature_k: float,
    seed: int,
    source: str,
    tell: Callable[[float], None] = lambda share: None,
) -> FloatArray:
    """Frames (F, N, 3) of replicas that parted at a higher temperature. Raises: ValueError where they explode."""
    frames: list[FloatArray] = []
    wanted = REPLICAS * round(TIME_PS / INTERVAL_PS)
    with pinned(current_core()), _one_torch_thread():
        for replica in range(REPLICAS):
            integrator = openmm.LangevinMiddleIntegrator(HOT * temperature_k, 5.0, 0.001)
            integrator.setRandomNumberSeed(1 + seed * REPLICAS + replica)
            context = make_context(system, integrator=integrator)
            context.setPositions(positions_nm)
            start = context.getState(energy=True).getPotentialEnergy()._value
            if not np.isfinite(start):
                raise ValueError(f"the energy of the structure in {source} is {start}: minimise it first")
            if replica == 0:
                _check_forces(context, positions_nm, source)
                context.setPositions(positions_nm)
            openmm.LocalEnergyMinimizer.minimize(context)
            context.setVelocitiesToTemperature(HOT * temperature_k, 1 + replica)
            try:
                integrator.step(round(HOT_PS * 1000))
                integrator.setTemperature(temperature_k)
                for _ in range(round(TIME_PS / INTERVAL_PS)):
                    integrator.step(round(INTERVAL_PS * 1000))
                    frames.append(context.getState(positions=True).getPositions(asNumpy=True)._value)
                    tell(len(frames) / wanted)
            except openmm.OpenMMException:
                frames.append(np.full_like(positions_nm, np.nan))
            if not np.isfinite(frames[-1]).all():
                raise ValueError(
                    f"dynamics of steps of 1 fs in {source} diverges: its atoms are perhaps in another order than "
                    "those of the structure"
                )
    return np.array(frames, np.float64)


def _check_forces(context: openmm.Context, positions_nm: FloatArray, source: str) -> None:
    """Raises: ValueError where forces are not the slope of the energy, as some of networks are not."""
    noise = np.random.default_rng(0).standard_normal(positions_nm.shape)
    shaken = positions_nm + SHAKE_NM * noise  # off the minimum, where forces are large
    context.setPositions(shaken)
    forces = context.getState(forces=True).getForces(asNumpy=True)._value
    said = float(np.linalg.norm(forces))
    energies = []
    for sign in (1, -1):
        context.setPositions(shaken + sign * SLOPE_NM * forces / max(said, 1e-9))
        energies.append(context.getState(energy=True).getPotentialEnergy()._value)
    slope = (energies[1] - energies[0]) / (2 * SLOPE_NM)
    if np.isfinite([slope, said]).all() and abs(slope - said) > SLOPE_OFF * max(said, slope, 1.0):
        raise ValueError(
            f"the forces of {source} are not the slope of its energy: it falls by {slope:.4g} kJ/mol a nm where they "
            f"say {said:.4g}; ten times is nm for ångström, as OpenMM-ML 1.8 has it in ANI's forces"
        )


def check_whole(frames_nm: FloatArray, topology: app.Topology, source: str) -> None:
    """Raises: ValueError where a bond breaks in short dynamics, as that of a reactive potential may."""
    bonds, usual = bonds_of(topology)
    longest = np.linalg.norm(frames_nm[:, bonds[:, 0]] - frames_nm[:, bonds[:, 1]], axis=-1).max(0)
    worst = int((longest / usual).argmax())
    if longest[worst] > LONG * usual[worst]:
        first, second = (list(topology.atoms())[i].name for i in bonds[worst])
        raise ValueError(
            f"the molecule comes apart in short dynamics with {source}: {first}-{second} gets {longest[worst]:.2f} nm "
            f"long ({usual[worst]:.2f} is usual); a flow has the bonds of the structure"
        )


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Let a PythonForce's network compute in one thread: several on one core spin, and take four times as long."""
    torch = sys.modules.get("torch")  # reading the System has imported it, if it needs it
    before = torch.get_num_threads() if torch else 0
    try:
        if torch:
            torch.set_num_threads(1)
        yield
    finally:
        if torch:
            torch.set_num_threads(before)
