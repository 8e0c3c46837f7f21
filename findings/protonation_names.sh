#!/usr/bin/env bash
# OpenMM 8.6.1 and MDTraj 1.11.1: names of states of protonation are lost on reading, of some and not of others.
#
# Expected: a PDB file whose residues are called ASH, GLH, HID, HIE, HIP, LYN, CYX, CYM, as AMBER's tools write them and
#   as its force fields (and GROMACS's ports of them) want them, keeps those names when it is read and written, or loses
#   them all.
# Seen: OpenMM's PDBFile renames six of the eight, MDTraj's load_pdb four, and not the same ones. OpenMM has no setting for
#   it; MDTraj has standard_names=False. Output of this script:
#     file   ASH GLH HID HIE HIP LYN CYX CYM
#     OpenMM ASP GLU HIS HIS HIS LYN CYS CYM
#     MDTraj ASH GLH HIS HIS HIS LYN CYS CYM
# Source: the alternative names (alt1, alt2 …) in pdbNames.xml of either package.
# Why it matters: a selection by name (resname HIP) is empty; a file that has been through either is another molecule to
#   every program that goes by names, as those that prepare simulations do; and two analyses of one file disagree. Here:
#   molecules/protonation.py tells states by names and hydrogens, and molecules/complete.py puts the names back.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check openmm==8.6.1 mdtraj==1.11.1
"$work/env/bin/python" - "$work/states.pdb" <<'PY'
import sys

import mdtraj
from openmm.app import PDBFile

names = ["ASH", "GLH", "HID", "HIE", "HIP", "LYN", "CYX", "CYM"]
backbone = {"N": (0.0, 0.0), "CA": (1.2, 0.8), "C": (2.4, 0.0), "O": (2.4, -1.2)}
with open(sys.argv[1], "w") as file:
    for number, name in enumerate(names, start=1):
        for k, (atom, (x, y)) in enumerate(backbone.items()):
            serial = 4 * (number - 1) + k + 1
            where = f"{x + 3.7 * (number - 1):8.3f}{y:8.3f}{0:8.3f}"
            file.write(f"ATOM  {serial:5d}  {atom:<3} {name} A{number:4d}    {where}  1.00  0.00           {atom[0]}\n")
    file.write("END\n")
seen = {
    "file": names,
    "OpenMM": [residue.name for residue in PDBFile(sys.argv[1]).topology.residues()],
    "MDTraj": [residue.name for residue in mdtraj.load_pdb(sys.argv[1]).topology.residues],
}
for reader, found in seen.items():
    print(f"{reader:6s} {' '.join(found)}")
assert seen["OpenMM"] == "ASP GLU HIS HIS HIS LYN CYS CYM".split()
assert seen["MDTraj"] == "ASH GLH HIS HIS HIS LYN CYS CYM".split()
assert [r.name for r in mdtraj.load_pdb(sys.argv[1], standard_names=False).topology.residues] == names
PY
