"""From the log Z of a sampler, in a flow's normalised coordinates, to that of the molecule."""

import math

from .com import CenterOfMass


def configurational_log_z(
    log_z: float, n_atoms: int, scale_nm: float, temperature_ratio: float = 1.0, com: CenterOfMass = "gaussian"
) -> float:
    """log ∫ exp(−U/kT) δ(x̄) d³ᴺr, r in nm: what the target's own centre of mass and the flow's scale add is taken out.

    A sampler's target is exp(−U/kT) times the term of `com_log_density`, which is not normalised, over x = r / scale.
    Momenta are left out: their part depends on masses and temperature alone, (3N/2) ln(2π m kT/h²) without constraints.

    Raises: ValueError for an unknown mode.
    """
    of_centre = 1.5 * math.log(2 * math.pi * temperature_ratio * scale_nm**2 / n_atoms)
    if com == "radial":  # times |x̄|², whose mean is three variances
        of_centre += math.log(3 * temperature_ratio / n_atoms)
    elif com != "gaussian":
        raise ValueError(f"unknown centre-of-mass distribution {com!r}; choose gaussian or radial")
    return log_z + 3 * n_atoms * math.log(scale_nm) - of_centre
