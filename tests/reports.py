"""Reports made of real frames, for the tests of the page and of its figures."""

from pathlib import Path
from typing import Any

import numpy as np

from boltzray.molecules import Peptide
from boltzray.molecules.ensemble import Ensemble
from boltzray.molecules.observables import Tica
from boltzray.report.contents import Reference, Report

TESTS = Path(__file__).parent
GOLDEN = np.load(TESTS / "golden" / "metrics.npz")
FRAMES = GOLDEN["reference"]
ENERGIES = GOLDEN["reference_energy_kT"]
PEPTIDE = Peptide.from_pdb(GOLDEN["pdb"].tobytes().decode())
TICA = Tica(mean=GOLDEN["tica_mean"], projection=GOLDEN["tica_projection"])
REFERENCE = Reference(
    positions_nm=FRAMES, energy_kT=ENERGIES, source="OpenMM", tica=TICA, floor={"torus_w2": 0.0625, "chirality": 1.0}
)
STEPS = [
    {"step": k, "lam": lam, "ess": 0.6, "cess": 0.9, "acceptance": 0.5, "step_size": 1e-4, "n_roots": 100 - k}
    for k, lam in enumerate((1e-9, 1e-3, 1.0), start=1)
]
TRAINING = [{"step": k, "loss": 1.0 / k} for k in range(1, 40)]


def ensemble(log_weights: Any = None, **changes: Any) -> Ensemble:
    """Real frames with equal weights, unless changed."""
    log_weights = np.zeros(len(FRAMES)) if log_weights is None else log_weights
    fields = {"name": "SNIS", "chunks": [FRAMES], "energy_kT": ENERGIES, "log_weights": log_weights}
    return Ensemble(**fields | changes)


def report(*ensembles: Ensemble, **changes: Any) -> Report:
    return Report(**{"peptide": PEPTIDE, "ensembles": list(ensembles), "reference": REFERENCE} | changes)
