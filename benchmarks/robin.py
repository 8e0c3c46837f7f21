"""Draws a second of Robin, next to a straightforward decoder in the same run.

    python benchmarks/robin.py --peptide AA ACDEFGHI --batch 8 --threads 2

Released size and random weights. The straightforward decoder computes the condition, and the keys and values of the
global attention, of each sample at each coordinate, grows its cache by concatenation, and goes over the draws once more
for log q. In each cell the variants run in turn, and the fastest of each counts: machines are noisy, so read ratios.
`--coordinates` decodes the first so many alone, which takes a part of the time and favours the straightforward decoder:
its caches stay short. Prints Markdown.
"""

import argparse
import platform
import time
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from boltzray import models
from boltzray.models.conditioning import Precision
from boltzray.models.robin import RobinFlow, placed
from boltzray.models.tables import PeptideTables
from boltzray.models.token_decoder import TokenDecoder, draw
from boltzray.molecules import Peptide

PRECISIONS: tuple[Precision, ...] = ("float32", "bf16")
RELEASED = models.FlowConfig(
    coordinates="binned", channels=768, head_dim=64, blocks=1, layers_per_block=16, temperature=0.95, center="zero"
)


def straightforward(flow: RobinFlow, u: Tensor, tables: PeptideTables) -> tuple[Tensor, Tensor]:
    """Bins (B, T), and their log-probability (B,) by a second pass; `tables` have a row for each sample."""
    network, tokens = flow.network, []
    before = torch.zeros(len(u), dtype=torch.int64)
    caches: list[list[Tensor]] = [[] for _ in network.layers]
    for t in range(u.shape[1]):
        own = network.condition(tables, None)
        h = network.token(before)[:, None] + own.static[:, t : t + 1]
        h = h + network.look(h, own)
        for layer, cache in zip(network.layers, caches, strict=True):
            parts = (p.unflatten(-1, (-1, layer.attention.head_dim)) for p in layer.attention.project(h))
            q, *new = (p.transpose(1, 2) for p in parts)
            cache[:] = [torch.cat(pair, dim=2) for pair in zip(cache, new, strict=True)] if cache else new
            h = h + layer.attention.proj(F.scaled_dot_product_attention(q, *cache).transpose(1, 2).flatten(2))
            h = h + layer.mlp(h)
        before, _ = draw(network.logits(h)[:, 0], u[:, t], flow.config.temperature)
        tokens.append(before)
    found, own = torch.stack(tokens, dim=1), network.condition(tables, None)
    h = network.features(found, own._replace(static=own.static[:, : found.shape[1]]))
    log_p = (network.logits(h) / flow.config.temperature).log_softmax(-1)
    return found, log_p.gather(-1, found[..., None]).double().sum((1, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peptide", nargs="+", default=["AA", "ACDEFGHI"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--coordinates", type=int, default=10**6)
    parser.add_argument("--cpu-time", action="store_true", help="count the CPU's seconds: one thread, a busy machine")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    o = parser.parse_args()
    clock = time.process_time if o.cpu_time else time.perf_counter
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    flow = models.Flow(RELEASED, 0.35).requires_grad_(False).eval()
    assert isinstance(flow, RobinFlow)
    millions = sum(p.numel() for p in flow.parameters()) / 1e6
    print(f"{platform.machine()}, {o.threads} threads, torch {torch.__version__}; {millions:.2f} M parameters\n")
    print("| peptide | atoms | coordinates | batch | straightforward, ms | float32 | × | bf16 | × | Δ log q |")
    print("|---" * 10 + "|")
    for sequence in o.peptide:
        peptide = Peptide.from_sequence(sequence)
        c, steps = flow.condition(peptide), min(o.coordinates, 3 * peptide.n_atoms)
        tables = flow.tables([peptide] * o.batch)
        u = torch.rand(o.batch, steps, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        decoders = {p: TokenDecoder(flow.network, placed(c), None, p, flow.config.temperature) for p in PRECISIONS}
        runs = {"straightforward": partial(straightforward, flow, u, tables)}
        runs |= {precision: partial(decoder, u) for precision, decoder in decoders.items()}
        times: dict[str, list[float]] = {name: [] for name in runs}
        found = {}
        for _ in range(o.repeats):
            for name, run in runs.items():
                began = clock()
                with torch.inference_mode():
                    found[name] = run()
                times[name].append(clock() - began)
        best = {name: min(seconds) * 1e3 / (o.batch * steps) for name, seconds in times.items()}
        same = (found["float32"][0] == found["straightforward"][0]).all(1)
        away = (found["float32"][1] - found["straightforward"][1])[same].abs()
        slow = best["straightforward"]
        cells = [sequence, peptide.n_atoms, steps, o.batch, f"{slow:.3g}"]
        cells += [f"{value:.3g}" for p in PRECISIONS for value in (best[p], slow / best[p])]
        cells.append(f"{float(away.max()):.1g}" if len(away) else "–")
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
