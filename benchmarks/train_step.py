"""Time of one optimiser step on this machine: precision, attention, compilation, threads; against the FLOP floor.

    python benchmarks/train_step.py --sequence AA --batch 256 --threads 1 2

Each variant runs a few steps in turn, and the fastest counts: machines are noisy, so read the ratios.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from boltzray.models import Flow, FlowConfig, layers
from boltzray.models.augment import augment
from boltzray.models.tables import PeptideTables
from boltzray.molecules import Peptide


def product_rate(dtype: torch.dtype, channels: int, tokens: int) -> float:
    """FLOP/s of the matrix product that dominates a step."""
    a, b = torch.randn(tokens, channels, dtype=dtype), torch.randn(channels, 4 * channels, dtype=dtype)
    seconds = fastest(lambda: a @ b, 10)
    return 2 * tokens * channels * 4 * channels / seconds


def fastest(run: Callable[[], object], repeats: int) -> float:
    for _ in range(2):
        run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def step_of(config: FlowConfig, peptide: Peptide, batch: int, *, bf16: bool, compiled: bool) -> Callable[[], float]:
    torch.manual_seed(0)
    flow = Flow(config, 0.17)
    tables: PeptideTables = flow.tables([peptide])
    optimizer = torch.optim.AdamW(flow.parameters(), lr=1e-3, fused=True)
    frames = np.repeat(peptide.positions[None], batch, axis=0)
    x = torch.from_numpy(augment(frames, 0.17, np.random.default_rng(0)))
    if compiled:
        for block in flow.blocks:
            for layer in block.layers:
                layer.compile()

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            log_q = flow.log_prob(x, flow.conditioning(tables))
        loss = -log_q.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequence", default="AA")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--compile", action="store_true", help="also time torch.compile (needs a C++ compiler)")
    arguments = parser.parse_args()
    config = FlowConfig(
        channels=arguments.channels, head_dim=min(64, arguments.channels), layers_per_block=arguments.layers
    )
    peptide = Peptide.from_sequence(arguments.sequence)
    tokens = arguments.batch * peptide.n_atoms
    # Per layer and token: attention 4C², MLP 8C², transition 12C²; twice for multiply-add, thrice for backward.
    flops = 6 * tokens * config.blocks * config.layers_per_block * 24 * config.channels**2
    print(f"{arguments.sequence}, {peptide.n_atoms} atoms, batch {arguments.batch}, {flops / 1e9:.1f} GFLOP a step\n")
    print("| threads | variant | ms a step | against float32 | of the product's FLOP/s |")
    print("|---|---|---|---|---|")
    limit = layers.CPU_EXPLICIT_ATTENTION
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        variants = [("float32", False, False, limit), ("bf16, torch's attention", True, False, 0)]
        variants += [("bf16", True, False, limit)]
        if arguments.compile:
            variants += [("bf16, compiled layers", True, True, limit)]
        reference = 0.0
        for name, bf16, compiled, explicit in variants:
            layers.CPU_EXPLICIT_ATTENTION = explicit
            step = step_of(config, peptide, arguments.batch, bf16=bf16, compiled=compiled)
            seconds = fastest(step, 6)
            reference = reference or seconds
            rate = product_rate(torch.bfloat16 if bf16 else torch.float32, config.channels, tokens)
            fraction = flops / seconds / rate
            print(f"| {threads} | {name} | {1e3 * seconds:.0f} | {reference / seconds:.2f}× | {100 * fraction:.0f} % |")


if __name__ == "__main__":
    main()
