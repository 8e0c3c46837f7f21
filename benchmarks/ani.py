"""Write a System whose energy is the neural network ANI-1x, as OpenMM-ML makes Systems: a PythonForce.

    pip install --no-deps openmmml==1.8 torchani==2.2.4 lark-parser==0.12.0 "setuptools<81"
    python benchmarks/ani.py MOLECULE.pdb SYSTEM.xml
    BOLTZRAY_TRUST_PYTHON=1 python jobs/fit.py pdb=MOLECULE.pdb system=SYSTEM.xml \
        simulate.replicas=8 simulate.time_ns=0.01

For neutral molecules of H, C, N and O (Smith et al., J. Chem. Phys. 148, 241733, 2018; one of the eight networks). The
potentials that OpenMM-ML knows are downloaded on first use; the package torchani 2.2.4 has the parameters of ANI-1x
inside, which OpenMM-ML leaves out: hence these lines, around its function. With a network connection
`MLPotential("ani2x").createSystem(topology)` does as well.
"""

import sys
from functools import partial
from pathlib import Path

import openmm
import torch
import torchani
from openmm import app
from openmmml.models.anipotential import _computeANI
from torchani import neurochem
from torchani.models import BuiltinModel

RESOURCES = Path(torchani.__file__).parent / "resources" / "ani-1x_8x"


def network(index: int = 0) -> torch.nn.Module:
    """One network of the eight: (atomic numbers, positions in Å) → energy in Hartree."""
    constants = neurochem.Constants(str(RESOURCES / "rHCNO-5.2R_16-3.5A_a4-8.params"))
    energies, by_element = neurochem.load_sae(str(RESOURCES / "sae_linfit.dat"), return_dict=True)
    layers = neurochem.load_model(constants.species, str(RESOURCES / f"train{index}" / "networks"))
    features = torchani.AEVComputer(**constants)
    converter, to_tensor = torchani.nn.SpeciesConverter(constants.species), constants.species_to_tensor
    made: torch.nn.Module = BuiltinModel(
        converter, features, layers, energies, to_tensor, constants, by_element, periodic_table_index=True
    )
    return made


def system_of(topology: app.Topology) -> openmm.System:
    """A System of the topology with that energy alone. Raises: ValueError for other elements."""
    if others := {a.element.symbol for a in topology.atoms()} - set("HCNO"):
        raise ValueError(f"ANI-1x knows H, C, N and O, not {', '.join(sorted(others))}")
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    species = torch.tensor([[atom.element.atomic_number for atom in topology.atoms()]])
    system.addForce(openmm.PythonForce(partial(_computeANI, model=network(), species=species, pbc=None)))
    return system


if __name__ == "__main__":
    pdb = app.PDBFile(sys.argv[1])
    Path(sys.argv[2]).write_text(openmm.XmlSerializer.serialize(system_of(pdb.topology)))
