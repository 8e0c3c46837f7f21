"""Draws a second of Robin, next to a straightforward decoder in the same run.

    python benchmarks/robin.py --peptide AA ACDEFGHI --batch 8 --threads 2

Released size and random weights. The straightforward decoder computes the condition, and the keys and values of the
global attention, at each coordinate, grows its cache by concatenation, and goes over the draws once more for log q. In
each cell the variants run in turn, and the fastest of each counts: machines are noisy, so read the ratios. Prints
Markdown.
"""

import argparse
import platform
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from boltzray import models
from boltzray.models.robin import RobinFlow
from boltzray.models.tables import PeptideTables
from boltzray.models.token_decoder import draw
from boltzray.molecules import Peptide

RELEASED = models.FlowConfig(
    coordinates="binned", channels=768, head_dim=64, blocks=1, layers_per_block=16, temperature=0.95, center="zero"
)


def straightforward(flow: RobinFlow, u: Tensor, tables: PeptideTables) -> tuple[Tensor, Tensor]:
    """Bins (B, T), and their log-probability (B,) by a second pass."""
    network, tokens = flow.network, []
    before = torch.zeros(len(u), dtype=torch.int64)
    caches: list[list[Tensor]] = [[] for _ in network.layers]
    for t in range(u.shape[1]):
        placed = network.condition(tables, None)
        h = network.token(before)[:, None] + placed.static[:, t : t + 1]
        h = h + network.look(h, placed)
        for layer, cache in zip(network.layers, caches, strict=True):
            parts = (p.unflatten(-1, (-1, layer.attention.head_dim)) for p in layer.attention.project(h))
            q, *new = (p.transpose(1, 2) for p in parts)
            cache[:] = [torch.cat(pair, dim=2) for pair in zip(cache, new, strict=True)] if cache else new
            h = h + layer.attention.proj(F.scaled_dot_product_attention(q, *cache).transpose(1, 2).flatten(2))
            h = h + layer.mlp(h)
        before, _ = draw(network.logits(h)[:, 0], u[:, t], flow.config.temperature)
        tokens.append(before)
    found = torch.stack(tokens, dim=1)
    c = flow.conditioning(tables)
    return found, flow.token_log_prob(found, c).double().sum(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peptide", nargs="+", default=["AA", "ACDEFGHI"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    flow = models.Flow(RELEASED, 0.35).requires_grad_(False).eval()
    assert isinstance(flow, RobinFlow)
    millions = sum(p.numel() for p in flow.parameters()) / 1e6
    print(f"{platform.machine()}, {o.threads} threads, torch {torch.__version__}; {millions:.2f} M parameters\n")
    print(f"| peptide | atoms | batch | straightforward, draws/s | float32 | × | bf16 | × | Δ log q |\n{'|---' * 9}|")
    for sequence in o.peptide:
        peptide = Peptide.from_sequence(sequence)
        c, tables = flow.condition(peptide), flow.tables([peptide])
        u = torch.rand(o.batch, 3 * peptide.n_atoms, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        names = ("straightforward", "float32", "bf16")
        times: dict[str, list[float]] = {name: [] for name in names}
        for precision in ("float32", "bf16"):
            flow.sample_from_uniforms(u[:1], u[:1], c, precision)  # weights are packed
        for _ in range(o.repeats):
            for name in names:
                began = time.perf_counter()
                if name == "straightforward":
                    with torch.inference_mode():
                        tokens, log_prob = straightforward(flow, u, tables)
                else:
                    drawn = flow.sample_from_uniforms(u, u, c, name)
                    if name == "float32":
                        same = (drawn.tokens == tokens).all(1)
                        change = (drawn.log_q + 3 * peptide.n_atoms * torch.tensor(flow.bins.width).log() - log_prob)[
                            same
                        ]
                times[name].append(time.perf_counter() - began)
        best = {name: min(found) for name, found in times.items()}
        slow = best["straightforward"]
        rates = " | ".join(f"{o.batch / best[n]:.3g} | {slow / best[n]:.1f}" for n in ("float32", "bf16"))
        away = f"{float(change.abs().max()):.1g}" if len(change) else "–"
        print(f"| {sequence} | {peptide.n_atoms} | {o.batch} | {o.batch / slow:.3g} | {rates} | {away} |", flush=True)


if __name__ == "__main__":
    main()
