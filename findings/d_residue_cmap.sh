#!/usr/bin/env bash
# OpenMM 8.6.1: a D-residue silently gets the CMAP term of the L-residue (amber19, CHARMM36).
#
# Expected: a molecule and its mirror image have the same energy; or a D-residue, which the force field has no map for, is
#   refused or told.
# Seen: residue templates match by elements and bonds, which do not know left from right, so that D-alanine is taken for ALA,
#   and the map of L-alanine's phi and psi is put on it as it is. Without CMAP (amber14) nothing is wrong. Output:
#     amber14-all.xml: E(L) - E(D) = 0.0000 kJ/mol, CMAP 0.0000
#     amber19-all.xml: E(L) - E(D) = 1.5012 kJ/mol, CMAP 1.5012
# Source: openmm/app/forcefield.py, _matchResidue compares elements and bonds; CMAPTorsionGenerator goes by types.
# Why it matters: peptides with D-residues, and all-D ones by their mirror image, have wrong torsional energies in these force
#   fields, and nothing says so. Here: docs/howto/any_molecule.md says which force fields have mirror images of one energy.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check openmm==8.6.1 numpy==2.4.6
cat >"$work/alanine.pdb" <<'PDB'
HETATM    1  H1  ACE A   1      -2.522   3.373  -0.077  1.00  0.00           H  
HETATM    2  CH3 ACE A   1      -1.787   3.256   0.860  1.00  0.00           C  
HETATM    3  H2  ACE A   1      -0.921   4.078   0.847  1.00  0.00           H  
HETATM    4  H3  ACE A   1      -2.458   3.528   1.815  1.00  0.00           H  
HETATM    5  C   ACE A   1      -1.307   1.816   0.982  1.00  0.00           C  
HETATM    6  O   ACE A   1      -1.638   1.128   1.945  1.00  0.00           O  
ATOM      7  N   ALA A   2      -0.525   1.362   0.000  1.00  0.00           N  
ATOM      8  H   ALA A   2      -0.099   2.111  -0.820  1.00  0.00           H  
ATOM      9  CA  ALA A   2       0.000   0.000   0.000  1.00  0.00           C  
ATOM     10  HA  ALA A   2      -0.440  -0.616   0.921  1.00  0.00           H  
ATOM     11  C   ALA A   2       1.520   0.000   0.000  1.00  0.00           C  
ATOM     12  O   ALA A   2       2.144   0.522  -0.922  1.00  0.00           O  
ATOM     13  CB  ALA A   2      -0.507  -0.774  -1.206  1.00  0.00           C  
ATOM     14  HB1 ALA A   2      -1.536  -0.350  -1.651  1.00  0.00           H  
ATOM     15  HB2 ALA A   2       0.188  -0.803  -2.181  1.00  0.00           H  
ATOM     16  HB3 ALA A   2      -0.765  -1.920  -0.965  1.00  0.00           H  
HETATM   17  N   NME A   3       2.118  -0.588   1.039  1.00  0.00           N  
HETATM   18  H   NME A   3       1.630  -1.173   1.952  1.00  0.00           H  
HETATM   19  C   NME A   3       3.561  -0.654   1.155  1.00  0.00           C  
HETATM   20  H1  NME A   3       3.913  -0.766   2.293  1.00  0.00           H  
HETATM   21  H2  NME A   3       4.161   0.303   0.763  1.00  0.00           H  
HETATM   22  H3  NME A   3       3.952  -1.619   0.565  1.00  0.00           H  
TER
END
PDB
"$work/env/bin/python" - "$work/alanine.pdb" <<'PY'
import sys

import numpy as np
from openmm import Context, Platform, VerletIntegrator, app, unit

pdb = app.PDBFile(sys.argv[1])
left = np.array(pdb.positions.value_in_unit(unit.nanometer))
left += np.random.default_rng(0).normal(0, 0.003, left.shape)  # away from the plane of the extended chain
found = {}
for name in ("amber14-all.xml", "amber19-all.xml"):
    system = app.ForceField(name).createSystem(pdb.topology, nonbondedMethod=app.NoCutoff)
    for i, force in enumerate(system.getForces()):
        force.setForceGroup(i if "CMAP" in force.getName() else 31)
    context = Context(system, VerletIntegrator(0.001), Platform.getPlatformByName("Reference"))

    def energy(x, **groups):
        context.setPositions(x)
        return context.getState(energy=True, **groups).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)

    mirrored = left * [1, 1, -1]
    all_of_it = energy(left) - energy(mirrored)
    maps = energy(left, groups=0x7FFFFFFF) - energy(mirrored, groups=0x7FFFFFFF)
    found[name] = all_of_it
    print(f"{name}: E(L) - E(D) = {all_of_it:.4f} kJ/mol, CMAP {maps:.4f}")
assert abs(found["amber14-all.xml"]) < 1e-3
assert abs(found["amber19-all.xml"]) > 0.1
PY
