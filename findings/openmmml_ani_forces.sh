#!/usr/bin/env bash
# OpenMM-ML 1.8: forces of the ANI potentials are ten times too small.
#
# Expected: the forces of a System that MLPotential("ani2x") makes are the slope of its energy, in kJ/mol/nm.
# Seen: they are a tenth of it. The gradient is taken by positions in ångström and handed to OpenMM as if by nanometres.
#   Output of this script (methane, one hydrogen too far out, and methanol):
#     CH4   force by OpenMM 357.6, slope of the energy 3576.6 kJ/mol/nm: 0.100
#     CH3OH force by OpenMM 150.3, slope of the energy 1503.3 kJ/mol/nm: 0.100
# Versions: openmmml 1.8, openmm 8.6.1, torchani 2.2.4, torch 2.13.0. The parameters of ANI-2x are downloaded on first
#   use; the wheel of torchani has those of ANI-1x inside, which stand in for them here: the code that OpenMM calls is the
#   same.
# Source: _computeANI in openmmml/models/anipotential.py: positions in angstrom, energy in kJ/mol, -positions.grad returned.
# Why it matters: energies are right, so single points and tests of energies notice nothing; minimisers stop far from the
#   minimum, dynamics has bonds that vibrate three times too slowly, and at 310 K molecules come apart. Here:
#   molecules/short_dynamics.py compares forces with the energy before it runs dynamics, and refuses such a System.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check openmmml==1.8 openmm==8.6.1 torchani==2.2.4 \
    torch==2.13.0 "setuptools<81" numpy==2.4.6
"$work/env/bin/python" -W ignore - <<'PY'
from pathlib import Path

import numpy as np
import openmm
import torchani
from openmm import app, unit
from openmmml import MLPotential
from torchani import neurochem
from torchani.models import BuiltinModel


def ani1x(**settings):
    folder = Path(torchani.__file__).parent / "resources" / "ani-1x_8x"
    constants = neurochem.Constants(str(folder / "rHCNO-5.2R_16-3.5A_a4-8.params"))
    shifter, by_element = neurochem.load_sae(str(folder / "sae_linfit.dat"), return_dict=True)
    network = neurochem.load_model(constants.species, str(folder / "train0" / "networks"))
    converter = torchani.nn.SpeciesConverter(constants.species)
    features = torchani.AEVComputer(**constants)
    to_tensor = constants.species_to_tensor
    return BuiltinModel(converter, features, network, shifter, to_tensor, constants, by_element, **settings)


torchani.models.ANI2x = ani1x  # whose parameters need no download
molecules = {
    "CH4": ("CHHHH", [[0, 0, 0], [1.2, 0, 0], [-0.36, 1.03, 0], [-0.36, -0.51, 0.89], [-0.36, -0.51, -0.89]]),
    "CH3OH": (
        "COHHHH",
        [[0, 0, 0], [1.43, 0, 0], [1.75, 0.9, 0], [-0.36, 1.03, 0], [-0.36, -0.51, 0.89], [-0.36, -0.51, -0.89]],
    ),
}
for name, (symbols, angstrom) in molecules.items():
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for symbol in symbols:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    system = MLPotential("ani2x").createSystem(topology)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    x = 0.1 * np.array(angstrom)

    def state(positions):
        context.setPositions(positions)
        return context.getState(energy=True, forces=True)

    forces = state(x).getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    said = np.linalg.norm(forces)
    ahead, behind = (
        state(x + sign * 1e-4 * forces / said).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        for sign in (1, -1)
    )
    slope = (behind - ahead) / 2e-4
    print(f"{name:5s} force by OpenMM {said:.1f}, slope of the energy {slope:.1f} kJ/mol/nm: {said / slope:.3f}")
    assert 0.095 < said / slope < 0.105, "this has changed"
PY
