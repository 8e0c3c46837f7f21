"""Draws of one flow, weighted onto the density of another of the same scale: log Z is 0, and averages are the other's.

What flows say of their draws (log q) and what they say of given conformations (log p) must then agree, whatever they
have learned. For two states of one training, such as the last two that it kept:

    python benchmarks/densities.py outputs/robin_small/ray_train/*/flow --sequence GG --draws 5000
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from boltzray import models
from boltzray.molecules import Peptide
from boltzray.samplers import snis

BLOCK = 250


def draws(flow: models.Flow, c: models.Conditioning, n: int, n_atoms: int, seed: int) -> tuple[Tensor, Tensor]:
    """x (n, N, 3) normalised and log q (n,)."""
    stream, parts = np.random.default_rng(seed), []
    for low in range(0, n, BLOCK):
        noise = torch.from_numpy(flow.noise(stream, min(BLOCK, n - low), n_atoms))
        parts.append(flow.draw(noise, c)[:2])
    x, log_q = (torch.cat(part) for part in zip(*parts, strict=True))
    return x, log_q


def observables(x: Tensor, scale_nm: float) -> dict[str, np.ndarray]:
    """Radius of gyration and distances that learning changes, nm (n,)."""
    x = x.double() * scale_nm
    gyration = (x - x.mean(1, keepdim=True)).square().sum(2).mean(1).sqrt()
    ends = (x[:, 0] - x[:, -1]).norm(dim=1)
    first = (x[:, 0] - x[:, 1]).norm(dim=1)
    return {"radius of gyration": gyration.numpy(), "first to last atom": ends.numpy(), "first two": first.numpy()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flows", type=Path, nargs=2, help="draws are of the first")
    parser.add_argument("--sequence", default="GG")
    parser.add_argument("--draws", type=int, default=5000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    one, other = (models.load(path).requires_grad_(False) for path in arguments.flows)
    assert one.scale_nm == other.scale_nm, "densities of normalised coordinates: the scales must agree"
    peptide, n = Peptide.from_sequence(arguments.sequence).iupac(), arguments.draws
    c, c_other = one.condition(peptide), other.condition(peptide)
    x, log_q = draws(one, c, n, peptide.n_atoms, 0)
    log_p = torch.cat([other.log_prob(part, c_other) for part in x.split(BLOCK)])
    result = snis(None, log_q, log_p, "none")
    print(f"ESS {result.ess:.3f}, k̂ {result.k_hat:.2f}, log Z {result.log_z:.4f} ± {result.log_z_error:.4f}: "
          f"{abs(result.log_z) / result.log_z_error:.1f} σ from 0\n")  # fmt: skip
    w = (log_p - log_q).double().sub(result.log_z).exp().numpy()
    w /= w.sum()
    direct = observables(draws(other, c_other, n, peptide.n_atoms, 1)[0], other.scale_nm)
    print("| nm | drawn from the first | and weighted | drawn from the second | apart, σ |\n|---|---|---|---|---|")
    for name, values in observables(x, one.scale_nm).items():
        mean, plain, theirs = float(w @ values), float(values.mean()), direct[name]
        error = float(np.sqrt(np.square(w * (values - mean)).sum()))
        their_error = float(theirs.std() / math.sqrt(n))
        sigma = abs(mean - theirs.mean()) / math.hypot(error, their_error)
        cells = [
            f"{plain:.5f}",
            f"{mean:.5f} ± {error:.5f}",
            f"{theirs.mean():.5f} ± {their_error:.5f}",
            f"{sigma:.1f}",
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
