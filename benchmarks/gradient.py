"""log q and its gradient by the coordinates, as SMC takes them: in float32, with products in bf16, and the floor.

    OMP_NUM_THREADS=1 python benchmarks/gradient.py
    OMP_NUM_THREADS=1 python benchmarks/gradient.py --checkpoint boltzray://peptides-small --batch 256 128

Without `--checkpoint`: one block of the released width, random weights, four of its eight layers. CPU time; variants
run in turn, and the fastest of each counts. The floor is what matrix products alone would take in float32, forward and
back, at the rate measured here. Errors are medians: of log q in nats, of the gradient relative to its length.
"""

import argparse
import time
from collections.abc import Callable

import torch
from decode import flops, product_rate, random_flow

from boltzray import models
from boltzray.models import FlowConfig
from boltzray.molecules import Peptide


def seconds(run: Callable[[], object], repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="", help="a flow, in place of random weights of the released width")
    parser.add_argument("--peptide", nargs="+", default=["AA", "ARIP"])
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 32], help="of each peptide")
    parser.add_argument("--repeats", type=int, default=4)
    arguments = parser.parse_args()
    config = FlowConfig(blocks=1, layers_per_block=4)
    flow = models.load(arguments.checkpoint) if arguments.checkpoint else random_flow(config)
    flow.requires_grad_(False)
    rate = product_rate(torch.float32, torch.device("cpu"))
    print("| peptide, batch | forward, ms | float32, ms | bf16, ms | × | floor float32, ms | error of log q | of ∇ |")
    print("|---|---|---|---|---|---|---|---|")
    for sequence, batch in zip(arguments.peptide, arguments.batch, strict=True):
        peptide = Peptide.from_sequence(sequence)
        c = flow.condition(peptide)
        x, _ = flow.sample(c, batch, torch.Generator().manual_seed(0))
        exact, rough = (models.log_prob_and_gradient(flow, x, c, precision=p) for p in ("float32", "bf16"))
        off = float((rough[0] - exact[0]).abs().median())
        astray = float(((rough[1] - exact[1]).flatten(1).norm(dim=1) / exact[1].flatten(1).norm(dim=1)).median())
        with torch.no_grad():
            forward = seconds(lambda: flow.log_prob(x, c), arguments.repeats)  # noqa: B023  called here
        both = {
            p: seconds(lambda: models.log_prob_and_gradient(flow, x, c, precision=p), arguments.repeats)  # noqa: B023
            for p in ("float32", "bf16")
        }
        floor = "" if arguments.checkpoint else f"{2e3 * batch * flops(config, peptide.n_atoms) / rate:.0f}"
        cells = f"{1e3 * forward:.0f} | {1e3 * both['float32']:.0f} | {1e3 * both['bf16']:.0f}"
        ratio = both["float32"] / both["bf16"]
        print(f"| {sequence}, {batch} | {cells} | {ratio:.2f} | {floor} | {off:.3f} | {astray:.4f} |", flush=True)


if __name__ == "__main__":
    main()
