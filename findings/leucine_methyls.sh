#!/usr/bin/env bash
# PeptideBuilder 1.1.0: leucine's CD1 and CD2 stand in each other's place.
#
# Expected: CD1 of leucine is pro-R and CD2 pro-S (IUPAC), as in every structure of the PDB: seen from CB, the torsion
#   CA-CB-CG-CD2 is 120 degrees above that of CD1.
# Seen: it is 108 degrees below. Valine's CG1 and CG2 are right. Output of this script:
#     LEU: CD2 - CD1 = -108.2 degrees (IUPAC: about +120)
#     VAL: CG2 - CG1 = 119.5 degrees (IUPAC: about +120)
# Source: the torsions of LeuGeo in PeptideBuilder/Geometry.py.
# Why it matters: the molecule is right, so nothing notices; but rotamers by name are wrong (chi2 near 60 degrees, a
#   quarter of leucines, shows as 0 %), and a model that learned from the PDB or from AmberTools gives such frames a
#   density that is wrong by hundreds of log units. Here: molecules/stereo.py names atoms by handedness.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check PeptideBuilder==1.1.0 biopython==1.88
"$work/env/bin/python" - <<'PY'
import math

import PeptideBuilder
from Bio.PDB.vectors import calc_dihedral

offsets = []
for letter, name, centre, pair, should in (
    ("L", "LEU", ("CA", "CB", "CG"), ("CD1", "CD2"), 120),
    ("V", "VAL", ("N", "CA", "CB"), ("CG1", "CG2"), 120),
):
    residue = next(PeptideBuilder.make_extended_structure("A" + letter + "A").get_chains()).child_list[1]
    first, second = (calc_dihedral(*(residue[a].get_vector() for a in (*centre, b))) for b in pair)
    offset = (math.degrees(second - first) + 180) % 360 - 180
    print(f"{name}: {pair[1]} - {pair[0]} = {offset:.1f} degrees (IUPAC: about +{should})")
    offsets.append(offset)
assert -140 < offsets[0] < -100 and 100 < offsets[1] < 140, offsets
PY
