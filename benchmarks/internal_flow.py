"""Training steps and draws of a flow of internal coordinates: frames a second, and draws a second.

    OMP_NUM_THREADS=1 python benchmarks/internal_flow.py AA DG IK WQ --channels 128 --layers 6

One core. To compare with an earlier version, run the same file on a checkout of it, by turns:
`PYTHONPATH=EARLIER python benchmarks/internal_flow.py …` (before December 2026 with `--blocks 4 --layers 1`).
Weights are random: they change nothing in the work. Prints Markdown.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from boltzray import models
from boltzray.data.collate import Collator
from boltzray.models.augment import augment
from boltzray.molecules import Peptide
from boltzray.training.train_step import Learner, TrainConfig

SCALE_NM = 0.2173


def per_second(run: Callable[[], object], rows: int, repeats: int) -> float:
    """Rows a second of CPU time, the median."""
    run()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return rows / float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", nargs="+")
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    o = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = models.FlowConfig(
        channels=o.channels, head_dim=32, blocks=o.blocks, layers_per_block=o.layers, coordinates="internal"
    )
    flow = models.Flow(config, SCALE_NM)
    peptides = {s: Peptide.from_sequence(s) for s in o.sequences}
    count = sum(p.numel() for p in flow.parameters())
    print(f"{count / 1e6:.2f} M parameters\n")
    print(f"| peptide | atoms | training, frames/s | draws/s | draws/s, bf16 |\n{'|---' * 5}|")
    collator, rng = Collator(flow, peptides), np.random.default_rng(0)
    learner = Learner(flow, TrainConfig(steps=10_000, batch=o.batch, lr=1e-5), device=torch.device("cpu"))
    for sequence, peptide in peptides.items():
        shaken = peptide.positions + 0.002 * rng.standard_normal((o.batch, peptide.n_atoms, 3))
        # Rows of tables of their own, as in a batch of many peptides.
        batch = collator([sequence] * o.batch, list(augment(shaken, SCALE_NM, rng)))
        rows = collator.tables.rows(torch.full((o.batch,), collator.index[sequence]))
        batch = batch._replace(tables=rows)
        trained = per_second(lambda batch=batch: learner.train_step([batch]), o.batch, 2 * o.repeats)
        c = flow.condition(peptide)
        drawn = [
            per_second(lambda p=p, c=c: flow.sample(c, o.draws, precision=p), o.draws, o.repeats)
            for p in ("float32", "bf16")
        ]
        print(f"| {sequence} | {peptide.n_atoms} | {trained:.0f} | {drawn[0]:.0f} | {drawn[1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
