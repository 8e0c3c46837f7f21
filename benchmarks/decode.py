"""Samples and log-densities per second, next to a straightforward inverse and to the FLOP floor.

    python benchmarks/decode.py --size small released --peptide AA ARIP ACDEFGHI --batch 1 16 64 256 --threads 1

In each cell the variants run in turn, and the fastest of each counts: machines are noisy, so read the ratios. Weights
are random and away from zero, or those of `--checkpoint`, whose distances |log q drawn - log q forward| are real ones.
Rows are printed, and added to `--output`, as they are made.

The straightforward inverse computes the condition of each token for every sample, and concatenates keys and values.
The floor is what the inverse would make if it were nothing but matrix products at the rate measured here.
"""

import argparse
import datetime
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from boltzray import models
from boltzray.models import Conditioning, Flow, FlowConfig
from boltzray.models.block import Block
from boltzray.models.flow import normal_log_density
from boltzray.models.layers import Attention, reorder
from boltzray.models.products import Product
from boltzray.molecules import Peptide

SIZES = {
    "small": FlowConfig(channels=64, head_dim=64, layers_per_block=1),
    "released": FlowConfig(),
}
HEADER = (
    "| size | peptide | batch | straightforward | float32 | × | bf16 | × | forward | floor float32 | floor bf16 "
    "| Δ log q float32 | Δ log q bf16 |"
)


def random_flow(config: FlowConfig) -> Flow:
    torch.manual_seed(0)
    flow = Flow(config, 0.35)
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            parameter.add_((0.004 if "proj_out" in name else 0.02) * torch.randn_like(parameter))
    return flow


def attend(attention: Attention, x: Tensor, cache: list[Tensor]) -> Tensor:
    """Attention of the newest token (B, C); keys and values (B, H, i, D) grow by concatenation."""
    q, k, v = (t.unflatten(-1, (-1, attention.head_dim))[:, :, None] for t in attention.project(x))
    cache[:] = [torch.cat([old, new], dim=2) for old, new in zip(cache, (k, v), strict=True)] if cache else [k, v]
    return attention.proj(F.scaled_dot_product_attention(q, *cache).flatten(1))


def straightforward_block(block: Block, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One adaptive block with lookahead, one token after the other. Shape: z (B, N, 3), c (1, N, C)."""
    c = F.pad(c, (0, 0, 0, 1)).expand(len(z), -1, -1)
    caches: list[list[Tensor]] = [[] for _ in block.layers]
    tokens, scales = [z[:, 0]], []
    positions = block.positions(z.shape[1])
    for i in range(z.shape[1] - 1):
        e = block.proj_cond(torch.cat([c[:, i], c[:, i + 1]], dim=-1))
        h = block.proj_in(tokens[-1]) + positions[i]
        for layer, cache in zip(block.layers, caches, strict=True):
            m = layer.modulation(e)
            y = F.layer_norm(h, h.shape[-1:]) * m.scale1 + m.shift1
            y = y + attend(layer.attention, y, cache)
            y = y + layer.mlp(y)
            h = h + y * m.gate1
            h = h + layer.transition(F.layer_norm(h, h.shape[-1:]) * m.scale2 + m.shift2) * m.gate2
        a, b = block.head(h).chunk(2, dim=-1)
        tokens.append(z[:, i + 1] * torch.exp(a) + b)
        scales.append(a.sum(1))
    return torch.stack(tokens, dim=1), torch.stack(scales).sum(0)


def straightforward(flow: Flow, z: Tensor, c: Conditioning, embedded: Tensor) -> tuple[Tensor, Tensor]:
    """x and log q, as `Flow.push`."""
    log_q = normal_log_density(z, 3 * c.n_atoms)
    for k in reversed(range(len(flow.blocks))):
        u, a = straightforward_block(flow.blocks[k], reorder(z, c.order[k]), reorder(embedded, c.order[k]))
        z, log_q = reorder(u, c.inverse_order[k]), log_q - a
    return z, log_q


def flops(config: FlowConfig, tokens: int) -> float:
    """Multiply-adds of one sample, twice, conditions apart; the last token of a block conditions nothing."""
    c, steps = config.channels, tokens - 1
    layer = steps * 24 * c * c + c * steps * (steps + 1)  # projections; scores and their sums
    return 2.0 * config.blocks * (config.layers_per_block * layer + steps * 9 * c)


CLOCK = time.perf_counter


def seconds(run: Callable[[], object], device: torch.device) -> float:
    start = CLOCK()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return CLOCK() - start


def product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of large matrix products, packed or not, whichever is faster."""
    n = 4096 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, dtype=dtype, device=device) for _ in range(2))
    packed = Product(b, None, dtype)
    times = [seconds(run, device) for _ in range(10) for run in (lambda: a @ b, lambda: packed(a))]
    return 2 * n**3 / min(times)


class Case:
    """One flow and one peptide, at any batch size."""

    def __init__(self, flow: Flow, sequence: str, device: torch.device) -> None:
        self.flow, self.device = flow, device
        peptide = Peptide.from_sequence(sequence)
        self.c = flow.condition(peptide)
        assert flow.embedding is not None
        self.embedded = flow.embedding(flow.tables([peptide]))
        self.tokens = self.c.order.shape[-1]

    def row(self, batch: int, repeats: int, budget: float) -> dict[str, float]:
        """Fastest seconds of each variant, and how far its log q is from the forward one."""
        z = torch.randn(batch, self.tokens, 3, generator=torch.Generator().manual_seed(1)).to(self.device)
        runs: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
            "straightforward": lambda: straightforward(self.flow, z, self.c, self.embedded),
            "float32": lambda: self.flow.push(z, self.c),
            "bf16": lambda: self.flow.push(z, self.c, "bf16"),
        }
        result = {}
        for name, run in runs.items():  # also prepares what the first use prepares
            x, log_q = run()
            distance = (self.flow.log_prob(x, self.c) - log_q).abs()
            result |= {f"mean {name}": float(distance.mean()), f"max {name}": float(distance.max())}
        timed: dict[str, Callable[[], object]] = {**runs, "forward": lambda: self.flow.log_prob(z, self.c)}
        times: dict[str, list[float]] = {name: [] for name in timed}
        end = time.perf_counter() + budget
        while not times["forward"] or (len(times["forward"]) < repeats and time.perf_counter() < end):
            for name, timed_run in timed.items():
                times[name].append(seconds(timed_run, self.device))
        return result | {name: min(t) for name, t in times.items()}


def table_row(size: str, sequence: str, batch: int, row: dict[str, float], floors: dict[str, float]) -> str:
    rate = {name: f"{batch / row[name]:,.4g}" for name in ("straightforward", "float32", "bf16", "forward")}
    gain = {name: f"{row['straightforward'] / row[name]:.2f}" for name in ("float32", "bf16")}
    distance = {name: f"{row[f'mean {name}']:.1g}, {row[f'max {name}']:.1g}" for name in ("float32", "bf16")}
    cells = [size, sequence, str(batch), rate["straightforward"], rate["float32"], gain["float32"], rate["bf16"]]
    cells += [gain["bf16"], rate["forward"], *(f"{floors[p]:,.4g}" for p in ("float32", "bf16")), *distance.values()]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["small"])
    parser.add_argument("--checkpoint", help="a trained Prose in place of random weights of these sizes")
    parser.add_argument("--peptide", nargs="+", default=["AA", "ARIP", "ACDEFGHI"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--blocks", type=int, help="blocks in place of the size's 8: the work is proportional")
    parser.add_argument("--repeats", type=int, default=5, help="rounds in a cell, at most")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for a cell; one that needs more is skipped")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help="count the CPU's seconds: one thread, a busy machine")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tf32", action="store_true", help="float32 products in TF32 (CUDA)")
    parser.add_argument("--output", type=Path, help="file to which rows are added")
    arguments = parser.parse_args()
    if arguments.cpu_time:
        global CLOCK
        CLOCK = time.process_time
    torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("high" if arguments.tf32 else "highest")
    device = torch.device(arguments.device)

    def say(line: str) -> None:
        print(line, flush=True)
        if arguments.output:
            with arguments.output.open("a") as file:
                file.write(line + "\n")

    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    rates = {p: product_rate(d, device) for p, d in (("float32", torch.float32), ("bf16", torch.bfloat16))}
    clock = ", CPU time" if arguments.cpu_time else ""
    say(f"{name}, {arguments.threads} thread(s){clock}, torch {torch.__version__}, {datetime.date.today()}; products:")
    say(
        ", ".join(f"{p} {rate / 1e9:,.0f} GFLOP/s" for p, rate in rates.items()) + ". Samples (forward: log q) a second"
    )
    say(f"\n{HEADER}\n|{'---|' * (HEADER.count('|') - 1)}")
    for size in [arguments.checkpoint] if arguments.checkpoint else arguments.size:
        flow = (
            models.load(size)
            if arguments.checkpoint
            else random_flow(replace(SIZES[size], blocks=arguments.blocks or SIZES[size].blocks))
        )
        flow.requires_grad_(False).eval().to(device)
        for sequence in arguments.peptide:
            case = Case(flow, sequence, device)
            work = flops(flow.config, case.tokens)
            floors = {p: rate / work for p, rate in rates.items()}
            for batch in arguments.batch:
                # A warm-up with its checks and one round: about sixteen times the floor.
                if (need := 16 * batch / floors["float32"]) > arguments.budget:
                    say(f"| {size} | {sequence} | {batch} | skipped: about {need:,.0f} s |{' |' * 9}")
                    continue
                with torch.inference_mode():
                    row = case.row(batch, arguments.repeats, arguments.budget - need / 2)
                say(table_row(size, sequence, batch, row, floors))


if __name__ == "__main__":
    main()
