#!/usr/bin/env bash
# wwPDB Chemical Component Dictionary (as biotite 1.6.0 carries it): the ideal coordinates of ARG, ILE, LEU and MET have
# the names of prochiral hydrogens the other way round than the model coordinates of the same entries, and than IUPAC;
# those of ARG have NH1 and NH2 exchanged as well, and of ASN and GLN one of each pair of side-chain NH2 hydrogens is off.
#
# Expected: both sets of coordinates of a component show the same molecule with the same names. IUPAC (Markley et al.
#   1998, table of the BMRB): HB2 of ARG, LEU, LYS and MET is pro-R, NH1 of ARG is cis to CD, HD21 of ASN and HE21 of GLN
#   are E.
# Seen (pro-R or pro-S of HB2; torsions in degrees):
#     ARG HB2: model R, ideal S
#     LEU HB2: model R, ideal S
#     MET HB2: model R, ideal S
#     LYS HB2: model R, ideal R
#     ARG CD-NE-CZ-NH1: model 0, ideal 180
#     ASN CB-CG-ND2-HD21: model 180, ideal 0
#     GLN CG-CD-NE2-HE21: model 1, ideal 180
# Source: chem_comp_atom of the dictionary, columns model_Cartn_* against pdbx_model_Cartn_*_ideal; the ideal ones are
#   made by a program from the chemical graph, in which the two hydrogens of a CH2 are equal.
# Why it matters: ideal coordinates are what tools take as templates (biotite's `info.residue` returns them). Who names
#   atoms by them gets names that no program writes, and a model that learns a distribution by name learns two of them.
#   Here: molecules/components.py takes the model coordinates, and HD21 of ASN from IUPAC.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check biotite==1.6.0
"$work/env/bin/python" - <<'PY'
import numpy as np
from biotite.structure.info import ccd

atoms = ccd.get_ccd()["chem_comp_atom"]
column = {key: atoms[key].as_array(str) for key in atoms}


def coordinates(name, pattern):
    rows = np.flatnonzero(column["comp_id"] == name)
    return {
        column["atom_id"][i]: np.array([float(column[pattern.format(x)][i]) for x in "xyz"]) for i in rows
    }


def hb2(x):
    """pro-R or pro-S, where CA has a higher priority than CG."""
    a, b, h = (x[n] - x["CB"] for n in ("CA", "CG", "HB2"))
    return "R" if np.dot(np.cross(a, b), h) < 0 else "S"


def torsion(x, *names):
    a, b, c, d = (x[n] for n in names)
    axis = (c - b) / np.linalg.norm(c - b)
    v, w = (a - b) - (a - b) @ axis * axis, (d - c) - (d - c) @ axis * axis
    return abs(round(float(np.degrees(np.arctan2(np.cross(axis, v) @ w, v @ w)))))


found = []
for name in ("ARG", "LEU", "MET", "LYS"):
    sides = [hb2(coordinates(name, p)) for p in ("model_Cartn_{}", "pdbx_model_Cartn_{}_ideal")]
    print(f"{name} HB2: model {sides[0]}, ideal {sides[1]}")
    found.append("".join(sides))
for name, four in (("ARG", "CD NE CZ NH1"), ("ASN", "CB CG ND2 HD21"), ("GLN", "CG CD NE2 HE21")):
    angles = [torsion(coordinates(name, p), *four.split()) for p in ("model_Cartn_{}", "pdbx_model_Cartn_{}_ideal")]
    print(f"{name} {'-'.join(four.split())}: model {angles[0]}, ideal {angles[1]}")
    found.append("".join("c" if angle < 90 else "t" for angle in angles))
assert found == ["RS", "RS", "RS", "RR", "ct", "tc", "ct"], found
PY
