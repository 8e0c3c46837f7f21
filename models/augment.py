"""Make training samples of frames of molecular dynamics. Pure numpy: it runs in data workers.

Source: prose (arXiv 2508.18175): random rotation, centring, 1/σ, and a Gaussian centre of mass.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def random_rotations(n: int, rng: np.random.Generator) -> Floats:
    """Uniform rotation matrices (n, 3, 3), from unit quaternions."""
    quaternions = rng.standard_normal((n, 4))
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def normalise(positions_nm: Floats, scale_nm: float) -> NDArray[np.float32]:
    """Frames (B, N, 3) centred on the mean of their atoms, in units of `scale_nm`."""
    centred = positions_nm - positions_nm.mean(axis=1, keepdims=True)
    return (centred / scale_nm).astype(np.float32)


def augment(
    positions_nm: Floats, scale_nm: float, rng: np.random.Generator, center: str = "gaussian"
) -> NDArray[np.float32]:
    """Normalised frames in a random orientation, their centre drawn from N(0, I/N), or at the origin if it is `zero`.

    Without the noise the density would be singular: a flow on R^{3N} needs a distribution of the centre of mass, and
    the target has the same one (`samplers.com`). Only a flow over bins can do without.

    Shape: (B, N, 3) nm → (B, N, 3).
    """
    batch, n_atoms, _ = positions_nm.shape
    x = normalise(positions_nm, scale_nm) @ random_rotations(batch, rng).astype(np.float32).transpose(0, 2, 1)
    if center == "zero":
        return x.astype(np.float32)
    centre = rng.standard_normal((batch, 1, 3)) / np.sqrt(n_atoms)
    return (x + centre).astype(np.float32)
