#!/usr/bin/env bash
# OpenMM 8.6.1: charmm36_2024.xml leaves out the harmonic impropers of a capped peptide without a word.
#
# Expected: ACE-ALA-NME as three residues, or the same atoms as one residue, have the same forces: a topology's division into
#   residues is no part of the energy.
# Seen: the file's script finds impropers by residue and atom names. Of three residues it finds none: the System has no
#   CustomTorsionForce, and no error or warning says so. Output:
#     three residues: 0 harmonic impropers, 230.448 kJ/mol
#     one residue: 4 harmonic impropers, 231.218 kJ/mol
# Source: openmm/app/data/charmm36_2024.xml, its <Script> looks impropers up by the name of the residue.
# Why it matters: nothing keeps amide groups flat but torsions, and every energy is off. Systems of capped peptides should be made by
#   charmm36.xml, or from a PSF; docs/howto/any_molecule.md says so.
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

from openmm import Context, Platform, VerletIntegrator, app, unit

pdb = app.PDBFile(sys.argv[1])
one = app.Topology()
residue = one.addResidue("ALA", one.addChain())
atoms = {atom: one.addAtom(atom.residue.name + atom.name, atom.element, residue) for atom in pdb.topology.atoms()}
for a, b in pdb.topology.bonds():
    one.addBond(atoms[a], atoms[b])
forcefield = app.ForceField("charmm36_2024.xml")
counts = []
for name, topology in (("three residues", pdb.topology), ("one residue", one)):
    system = forcefield.createSystem(topology, nonbondedMethod=app.NoCutoff)
    context = Context(system, VerletIntegrator(0.001), Platform.getPlatformByName("Reference"))
    context.setPositions(pdb.positions)
    energy = context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    impropers = [force for force in system.getForces() if type(force).__name__ == "CustomTorsionForce"]
    counts.append(sum(force.getNumTorsions() for force in impropers))
    print(f"{name}: {counts[-1]} harmonic impropers, {energy:.3f} kJ/mol")
assert counts[0] == 0 < counts[1], counts
PY
