"""Write a System whose energy is the neural network ANI-1x, as a PythonForce, which is what OpenMM-ML makes.

    pip install --no-deps torchani==2.2.4 lark-parser==0.12.0 "setuptools<81"
    python benchmarks/ani.py MOLECULE.pdb SYSTEM.xml
    BOLTZRAY_TRUST_PYTHON=1 python jobs/fit.py pdb=MOLECULE.pdb system=SYSTEM.xml \
        simulate.replicas=8 simulate.time_ns=0.01

For neutral molecules of H, C, N and O (Smith et al., J. Chem. Phys. 148, 241733, 2018; one of the eight networks). The
potentials that OpenMM-ML knows are downloaded on first use, which this needs not: the package torchani 2.2.4 has the
parameters of ANI-1x inside. OpenMM-ML 1.8 has ANI's forces ten times too small (`findings/openmmml_ani_forces.sh`).
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import torch
import torchani
from openmm import app, unit
from torchani import neurochem
from torchani.models import BuiltinModel

RESOURCES = Path(torchani.__file__).parent / "resources" / "ani-1x_8x"
KJ_MOL = 2625.499639  # in a Hartree


class Network:
    """A potential of a PythonForce: energy in kJ/mol and forces (N, 3) in kJ/mol/nm of a state."""

    def __init__(self, elements: list[int], index: int = 0) -> None:
        constants = neurochem.Constants(str(RESOURCES / "rHCNO-5.2R_16-3.5A_a4-8.params"))
        shifter, by_element = neurochem.load_sae(str(RESOURCES / "sae_linfit.dat"), return_dict=True)
        layers = neurochem.load_model(constants.species, str(RESOURCES / f"train{index}" / "networks"))
        parts: list[Any] = [torchani.nn.SpeciesConverter(constants.species), torchani.AEVComputer(**constants), layers]
        parts += [shifter, constants.species_to_tensor, constants, by_element]
        self.model = BuiltinModel(*parts, periodic_table_index=True)
        self.species = torch.tensor([elements])
        symbols = {1: "H", 6: "C", 7: "N", 8: "O"}
        self.free_atoms = sum(by_element[symbols[number]] for number in elements)  # taken off: a million kJ/mol

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        x = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        x_nm = torch.tensor(x, dtype=torch.float32)[None].requires_grad_()
        energy = (self.model((self.species, 10 * x_nm)).energies[0] - self.free_atoms) * KJ_MOL
        (slope,) = torch.autograd.grad(energy, x_nm)
        return float(energy.detach()), -slope[0].double().numpy()


def system_of(topology: app.Topology) -> openmm.System:
    """A System of the topology with that energy, less that of the free atoms. Raises: ValueError for other elements."""
    if others := {atom.element.symbol for atom in topology.atoms()} - set("HCNO"):
        raise ValueError(f"ANI-1x knows H, C, N and O, not {', '.join(sorted(others))}")
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    system.addForce(openmm.PythonForce(Network([atom.element.atomic_number for atom in topology.atoms()])))
    return system


if __name__ == "__main__":
    pdb = app.PDBFile(sys.argv[1])
    this = import_module("boltzray.benchmarks.ani")  # pickled by this name, which others find
    Path(sys.argv[2]).write_text(openmm.XmlSerializer.serialize(this.system_of(pdb.topology)))
