"""Systems of many force fields, and OpenMM's Reference platform to compare with."""

from collections.abc import Callable
from functools import cache

import numpy as np
import openmm
import torch
from openmm import app

from boltzray.molecules import BatchedEnergy, Peptide
from boltzray.molecules.constants import KB

KELVIN = 300.0
AMBER, CHARMM = "amber14-all.xml", "charmm36.xml"
CUTOFF = {"nonbondedMethod": app.CutoffNonPeriodic, "nonbondedCutoff": 0.9 * openmm.unit.nanometer}
SYSTEMS = {
    "amber14 in vacuum": ([AMBER], {}),
    "amber14, cutoff, reaction field": ([AMBER], CUTOFF),
    "amber14, cutoff, switched": ([AMBER], CUTOFF | {"switchDistance": 0.6}),
    "amber19 in vacuum": (["amber19-all.xml"], {}),
    "amber19, GBn2": (["amber19-all.xml", "implicit/gbn2.xml"], {}),
    "amber15 FB": (["amberfb15.xml"], {}),
    "amber96, OBC2 of OpenMM": (["amber96.xml", "amber96_obc.xml"], {}),
    "amber96, OBC2 of OpenMM, cutoff": (["amber96.xml", "amber96_obc.xml"], CUTOFF),
    "CHARMM36 in vacuum": ([CHARMM], {}),
    "CHARMM36, cutoff, switched": ([CHARMM], CUTOFF | {"switchDistance": 0.6}),
    "CHARMM36, GBn2": ([CHARMM, "implicit/gbn2.xml"], {}),
    "CHARMM36 of 2024": (["charmm36_2024.xml"], CUTOFF | {"switchDistance": 0.6}),
    **{f"amber14, {name}": ([AMBER, f"implicit/{name}.xml"], {}) for name in ("hct", "obc1", "obc2", "gbn", "gbn2")},
    **{
        f"amber14, {name}, cutoff": ([AMBER, f"implicit/{name}.xml"], CUTOFF)
        for name in ("hct", "obc1", "obc2", "gbn", "gbn2")
    },
    "amber14, obc2, salt": ([AMBER, "implicit/obc2.xml"], {"implicitSolventKappa": 1.3 / openmm.unit.nanometer}),
    "amber14, gbn2, salt, cutoff": (
        [AMBER, "implicit/gbn2.xml"],
        CUTOFF | {"implicitSolventKappa": 1.3 / openmm.unit.nanometer},
    ),
    "amber14, gbn2, no surface": ([AMBER, "implicit/gbn2.xml"], {"sasaMethod": None}),
    "amber14, obc2, other dielectrics": (
        [AMBER, "implicit/obc2.xml"],
        {"solventDielectric": 40.0, "soluteDielectric": 2.0},
    ),
}


def make_system(name: str, sequence: str = "AGPV") -> tuple[openmm.System, Peptide]:
    files, settings = SYSTEMS[name]
    peptide = Peptide.from_sequence(sequence)
    settings = {"nonbondedMethod": app.NoCutoff, "constraints": None} | settings
    return parsed(*files).createSystem(peptide.topology, **settings), peptide


@cache
def parsed(*files: str) -> app.ForceField:
    return app.ForceField(*files)  # CHARMM's takes seconds


def shaken(peptide: Peptide, scales: tuple[float, ...] = (0.0, 0.005, 0.02, 0.06)) -> np.ndarray:
    """From built to far too hot."""
    noise = np.random.default_rng(0).normal(size=(len(scales), peptide.n_atoms, 3))
    return peptide.positions + np.array(scales)[:, None, None] * noise


def only(system: openmm.System, keep: Callable[[openmm.Force], bool]) -> openmm.System:
    copy = openmm.XmlSerializer.clone(system)
    for index in reversed(range(copy.getNumForces())):
        if not keep(copy.getForce(index)):
            copy.removeForce(index)
    return copy


def reference(system: openmm.System, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies (B,) and gradients (B, N, 3) in kT."""
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(openmm.XmlSerializer.clone(system), openmm.VerletIntegrator(0.001), platform)
    energies, gradients = [], []
    for frame in x:
        context.setPositions(frame)
        state = context.getState(energy=True, forces=True)
        energies.append(state.getPotentialEnergy()._value)
        gradients.append(-state.getForces(asNumpy=True)._value)
    return np.array(energies) / (KB * KELVIN), np.array(gradients) / (KB * KELVIN)


def compare(system: openmm.System, x: np.ndarray, tolerance: float = 1e-9) -> BatchedEnergy:
    energy = BatchedEnergy.of_system(system, KELVIN)
    batch = energy.evaluate(torch.from_numpy(x))
    expected, gradient = reference(system, x)
    assert batch.ok.all()
    assert batch.gradient is not None
    scale = np.abs(gradient).max((1, 2), keepdims=True)
    np.testing.assert_allclose(batch.energy, expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(batch.gradient / scale, gradient / scale, rtol=0, atol=tolerance)
    return energy
