"""Bonds of a topology with their usual lengths, and structures whose atoms are not where these say.

Shapes: N atoms, B bonds. Units: nm.
"""

import numpy as np
import numpy.typing as npt
from openmm.app import Topology
from scipy.spatial import cKDTree

from .constants import COVALENT_NM

SHORT, LONG = 0.6, 1.5  # of the sum of radii: C=O has 0.87, X-ray's C-H 0.9, and heat adds a few per cent
SAME_PLACE_NM = 0.03  # atoms that are nearer are at one place


def bonds_of(topology: Topology) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Bonds (B, 2), the lower index first, and their usual lengths (B,): sums of covalent radii."""
    radius = np.array([COVALENT_NM.get(atom.element.symbol, 0.1) for atom in topology.atoms()])
    bonds = np.array([sorted((a.index, b.index)) for a, b in topology.bonds()], np.int64).reshape(-1, 2)
    return bonds, radius[bonds].sum(axis=1)


def check_structure(positions_nm: npt.NDArray[np.float64], topology: Topology, source: str) -> None:
    """Check one structure (N, 3), within limits that crude ones and hot frames keep.

    Raises: ValueError naming the bond that is farthest from its usual length, or two atoms at one place.
    """
    bonds, usual = bonds_of(topology)
    lengths = np.linalg.norm(positions_nm[bonds[:, 0]] - positions_nm[bonds[:, 1]], axis=1)
    ratios = lengths / usual
    wrong = ~((ratios > SHORT) & (ratios < LONG))
    remedy = "check the file, make whole what is broken over a periodic box, or minimise it"
    if wrong.any():
        worst = int(np.abs(np.log(ratios.clip(1e-6))).argmax())
        atoms = list(topology.atoms())
        first, second = (atoms[i] for i in bonds[worst])
        where = f"{first.name}-{second.name} of {first.residue.name} {first.residue.id} of {source}"
        raise ValueError(f"{where} is {lengths[worst]:.2f} nm long ({usual[worst]:.2f} is usual): {remedy}")
    if pairs := cKDTree(positions_nm).query_pairs(SAME_PLACE_NM):
        atoms = list(topology.atoms())
        first, second = (atoms[i] for i in min(pairs))
        raise ValueError(
            f"{source} has {first.name} of {first.residue.name} {first.residue.id} and {second.name} of "
            f"{second.residue.name} {second.residue.id} at one place: {remedy}"
        )
