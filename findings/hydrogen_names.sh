#!/usr/bin/env bash
# OpenMM 8.6.1: Modeller.addHydrogens names the two hydrogens of a CH2 group by chance.
#
# Expected: HB2 and HB3 of an L-residue are told by handedness (IUPAC), or at least the same for the same input.
# Seen: the same heavy atoms, twenty calls: HB2 of serine comes out pro-S in some and pro-R in others, by the state of
#   Python's random module. Output of this script:
#     HB2 of SER: pro-S in 6, pro-R in 14 of 20 calls
# Source: hydrogens are placed at random around their heavy atom and relaxed (openmm/app/modeller.py, addHydrogens,
#   "random.random()"), and get their names before they are anywhere.
# Why it matters: a structure is not reproduced by the same script, J couplings and NOEs by name (HB2 against HB3) mean
#   nothing, and PDB file and trajectory of one molecule disagree when hydrogens were added twice. Here:
#   molecules/complete.py fixes the state, and molecules/stereo.py names by handedness.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check openmm==8.6.1 numpy==2.4.6
cat >"$work/ser.pdb" <<'PDB'
ATOM      1  N   SER A   1      -0.525   1.362   0.000  1.00  0.00           N
ATOM      2  CA  SER A   1       0.000   0.000   0.000  1.00  0.00           C
ATOM      3  C   SER A   1       1.520   0.000   0.000  1.00  0.00           C
ATOM      4  O   SER A   1       2.144   0.812  -0.681  1.00  0.00           O
ATOM      5  CB  SER A   1      -0.507  -0.774  -1.206  1.00  0.00           C
ATOM      6  OG  SER A   1       0.000  -0.230  -2.410  1.00  0.00           O
ATOM      7  OXT SER A   1       2.116  -0.911   0.764  1.00  0.00           O
TER
END
PDB
"$work/env/bin/python" - "$work/ser.pdb" <<'PY'
import random
import sys

import numpy as np
from openmm import Platform, app, unit

count = {"R": 0, "S": 0}
for seed in range(20):
    random.seed(seed)
    pdb = app.PDBFile(sys.argv[1])
    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.addHydrogens(platform=Platform.getPlatformByName("Reference"))
    xyz = np.array(modeller.positions.value_in_unit(unit.nanometer))
    at = {atom.name: xyz[atom.index] for atom in modeller.topology.atoms()}
    a, b, h = (at[name] - at["CB"] for name in ("OG", "CA", "HB2"))
    count["R" if np.dot(np.cross(a, b), h) < 0 else "S"] += 1
print(f"HB2 of SER: pro-S in {count['S']}, pro-R in {count['R']} of 20 calls")
assert min(count.values()) >= 1, count
PY
