#!/usr/bin/env bash
# OpenMM 8.6.1, amber14: the energy of a structure depends on which of two equal atoms the file lists first.
#
# Expected: exchanging the lines of OD1 and OD2 of an aspartate in a PDB file, coordinates and names with them, changes
#   nothing: the molecule, its bonds and its conformation are the same.
# Seen: the torsion term changes, for a slightly distorted structure by more than kT (2.58 kJ/mol at 310 K); all other
#   terms are equal to the last digit. Output of this script:
#     bonds 1078.5 1078.5, angles 201.0 201.0, torsions 69.760 65.466, nonbonded -323.0 -323.0 kJ/mol
# Source: AMBER's improper torsions have an order of their three outer atoms. ForceField takes it from the atoms' places
#   in the residue's template (openmm/app/forcefield.py, _matchImproper, ordering "amber"), and of two atoms that the
#   template cannot tell apart the first in the file becomes the first in the template. tleap has the same ambiguity
#   (github.com/openmm/openmm issues 220 and 1361, ParmEd issue 486, on differences between programs).
# Why it matters: energies of one trajectory under two topologies of the same molecule differ by tenths of kT, which
#   weights and free energies see; on frames of MD we found up to 0.6 kT for a carboxyl group. Here: samples, references
#   and frames get their energies in one standard order of atoms (molecules/stereo.py, Peptide.iupac).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check \
    openmm==8.6.1 numpy==2.4.6 PeptideBuilder==1.1.0 biopython==1.88
"$work/env/bin/python" - <<'PY'
import io
import random

import numpy as np
import openmm
import PeptideBuilder
from Bio.PDB import PDBIO
from openmm import app, unit

structure = PeptideBuilder.make_extended_structure("DG")
PeptideBuilder.add_terminal_OXT(structure)
heavy, writer = io.StringIO(), PDBIO()
writer.set_structure(structure)
writer.save(heavy)
heavy.seek(0)
pdb = app.PDBFile(heavy)
random.seed(0)
modeller = app.Modeller(pdb.topology, pdb.positions)
reference = openmm.Platform.getPlatformByName("Reference")
modeller.addHydrogens(platform=reference)
x = np.array(modeller.positions.value_in_unit(unit.nanometer))
x += 0.01 * np.random.default_rng(1).standard_normal(x.shape)
text = io.StringIO()
app.PDBFile.writeFile(modeller.topology, x * unit.nanometer, text)
lines = [line for line in text.getvalue().splitlines() if line.startswith("ATOM")]
one, two = (next(i for i, line in enumerate(lines) if line[12:16].strip() == name) for name in ("OD1", "OD2"))
other = list(lines)
other[one], other[two] = lines[two], lines[one]


def energies(lines):
    pdb = app.PDBFile(io.StringIO("\n".join([*lines, "TER", "END", ""])))
    system = app.ForceField("amber14-all.xml").createSystem(pdb.topology, nonbondedMethod=app.NoCutoff)
    for i, force in enumerate(system.getForces()):
        force.setForceGroup(i)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), reference)
    context.setPositions(pdb.positions)
    return {
        force.getName(): context.getState(getEnergy=True, groups={i}).getPotentialEnergy()._value
        for i, force in enumerate(system.getForces())
    }


a, b = energies(lines), energies(other)
bonds, angles, torsions, rest = (f"{n}Force" for n in ("HarmonicBond", "HarmonicAngle", "PeriodicTorsion", "Nonbonded"))
print(
    f"bonds {a[bonds]:.1f} {b[bonds]:.1f}, angles {a[angles]:.1f} {b[angles]:.1f}, "
    f"torsions {a[torsions]:.3f} {b[torsions]:.3f}, nonbonded {a[rest]:.1f} {b[rest]:.1f} kJ/mol"
)
assert all(abs(a[n] - b[n]) < 1e-6 for n in (bonds, angles, rest))
assert abs(a[torsions] - b[torsions]) > 0.5
PY
