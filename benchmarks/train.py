"""Training steps over peptides of 2-8 residues: batches of similar size, against padding all frames to 178 tokens.

    python benchmarks/train.py                        # small: 64 channels, 8 blocks of 1 layer
    python benchmarks/train.py --released --batch 4 --steps 2 --peptides 12 --repeats 1     minutes on a core, 10 GB
    python benchmarks/train.py --released --batch 512 --steps 4 --compile     # a GPU is used when there is one

The mix of lengths has the mean of the public data, 108 atoms. All variants see the same frames; they take turns, and
the fastest pass over all frames counts, on a CPU by the processor time of one thread, which other work disturbs less.
`useful` counts real atoms only: 6 · parameters · atoms FLOP a step.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from boltzray.data.bucketing import Microbatch, cut, gather
from boltzray.data.collate import CollatedBatch, Collator
from boltzray.models import Flow, FlowConfig, layers
from boltzray.models.augment import augment
from boltzray.models.tables import PeptideTables
from boltzray.molecules import Peptide
from boltzray.training.train_step import Learner, TrainConfig

LONGEST, MEAN_ATOMS, LETTERS = 178, 108.0, "ACDEFGHIKLMNPQRSTVWY"
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16 FLOP/s, from the vendor


def public_mix(count: int) -> list[Peptide]:
    """Random peptides of 2-8 residues whose mean size is that of the public training set."""
    rng = random.Random(0)
    peptides = [
        Peptide.from_sequence("".join(rng.choices(LETTERS, k=2 + i % 7))) for i in range(7 * max(2, count // 7))
    ]
    return sorted(peptides, key=lambda p: p.n_atoms)


def drawn(peptides: list[Peptide], n: int) -> np.ndarray:
    """`n` peptides at random, tilted towards the long ones so that the mean is right."""
    sizes = np.array([p.n_atoms for p in peptides], float)
    low, high = -0.1, 0.1
    for _ in range(60):
        tilt = (low + high) / 2
        p = np.exp(tilt * (sizes - sizes.max()))
        p /= p.sum()
        low, high = (tilt, high) if p @ sizes < MEAN_ATOMS else (low, tilt)
    return np.random.default_rng(0).choice(len(peptides), n, p=p)


def dense_attention(sizes: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Attention with an explicit mask of all pairs, as where every batch is padded to one length."""
    position = torch.arange(LONGEST, device=sizes.device)
    mask = (position[:, None] >= position) & (position < sizes[:, None, None])
    mask = (mask | torch.eye(LONGEST, dtype=torch.bool, device=sizes.device))[:, None]

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if torch.is_autocast_enabled(q.device.type):
            dtype = torch.get_autocast_dtype(q.device.type)
            q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return attention


def padded(batch: CollatedBatch, n_blocks: int) -> CollatedBatch:
    """The batch with every row as long as the longest peptide there could be."""
    x, tables = batch.x, batch.tables
    extra = LONGEST - x.shape[1]
    tail = torch.arange(x.shape[1], LONGEST).expand(n_blocks, len(tables.n_atoms), -1)
    encodings = {k: F.pad(getattr(tables, k), (0, extra)) for k in ("atom_type", "aa_type", "aa_pos")}
    orderings = torch.cat([tables.orderings, tail], dim=-1)
    rows = PeptideTables(**encodings, seq_len=tables.seq_len, n_atoms=tables.n_atoms, orderings=orderings)
    return batch._replace(x=F.pad(x, (0, 0, 0, extra)), tables=rows)


def product_rate(device: torch.device, channels: int) -> tuple[float, str]:
    """FLOP/s of a large bf16 product here, or what the vendor says of a GPU."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
        return next((rate for key, rate in PEAKS.items() if key in name), float("nan")), f"vendor's peak of {name}"
    a, b = torch.randn(4096, channels).bfloat16(), torch.randn(channels, 4 * channels).bfloat16()
    times = []
    for _ in range(10):
        start = time.process_time()
        a @ b
        times.append((time.process_time() - start) / torch.get_num_threads())
    return 2 * 4096 * channels * 4 * channels / min(times), "bf16 product of this width, measured"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--released", action="store_true", help="the published size: 288 M parameters")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=16, help="that are bucketed together, and timed")
    parser.add_argument("--peptides", type=int, default=42)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--few", action="store_true", help="only the first variant and buckets of even frames")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "float32"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = FlowConfig() if arguments.released else FlowConfig(channels=64, layers_per_block=1)
    torch.manual_seed(0)
    flow = Flow(config, 0.35)
    settings = {k: getattr(arguments, k) for k in ("batch", "precision", "compile", "checkpointing")}
    learner = Learner(flow, TrainConfig(steps=100_000, lr=1e-5, **settings), device=device)
    parameters = sum(p.numel() for name, p in flow.named_parameters() if not name.startswith("embedding.atom"))

    peptides = public_mix(arguments.peptides)
    collator = Collator(flow, {p.sequence: p for p in peptides}, pin=device.type == "cuda")
    chosen = drawn(peptides, arguments.batch * arguments.steps)
    rng = np.random.default_rng(1)
    frames = [augment(peptides[i].positions[None] + 0.01 * rng.standard_normal(3), 0.35, rng)[0] for i in chosen]
    sizes = np.array([len(x) for x in frames])
    starts, values = np.concatenate([[0], np.cumsum(3 * sizes)[:-1]]), np.concatenate([x.ravel() for x in frames])

    def batches(rows: list[np.ndarray]) -> list[CollatedBatch]:
        unknown = np.full(len(frames), np.nan, np.float32)
        parts: list[Microbatch] = gather(rows, chosen, sizes, starts, values, unknown)
        return [collator.batch(part) for part in parts]

    plain = batches(np.split(np.arange(len(frames)), arguments.steps))
    variants = {
        "padded to 178, dense mask": [padded(batch, config.blocks) for batch in plain],
        "padded to the batch's longest": plain,
        "buckets, frames even": batches(cut(sizes, arguments.steps, "frames", 1, rng)),
        "buckets, atoms even": batches(cut(sizes, arguments.steps, "atoms", 1, rng)),
    }
    if arguments.few:
        variants = {name: batches for name, batches in variants.items() if "178" in name or "frames even" in name}
    clock = time.perf_counter if device.type == "cuda" or arguments.threads > 1 else time.process_time
    causal = layers.causal_attention
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    loss: dict[str, float] = {}

    def attend(name: str, tables: PeptideTables) -> None:
        dense = name.startswith("padded to 178")
        layers.causal_attention = dense_attention(tables.n_atoms.to(device)) if dense else causal

    for name, items in variants.items():
        total = 0.0
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bf16"):
            for x, tables, *_ in items:
                attend(name, tables)
                log_q = learner.model(x.to(device), tables.to(device))
                total -= float(log_q.sum())
        loss[name] = total / (3 * float(sizes.sum()))
    for _ in range(arguments.repeats + arguments.compile):
        for name, items in variants.items():
            start = clock()
            for batch in items:
                attend(name, batch.tables)
                statistics = learner.train_step([batch])
            float(statistics["loss"])  # waits for the device
            seconds[name].append(clock() - start)
            print(f"{name}: {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)

    peak, meaning = product_rate(device, config.channels)
    print(
        f"{parameters / 1e6:.1f} M parameters, {arguments.steps} steps of {arguments.batch} frames, mean "
        f"{sizes.mean():.0f} atoms, {arguments.precision}, {device.type}, peak {peak / 1e12:.3f} TFLOP/s ({meaning})\n"
    )
    print("| batches | padding | samples/s | atoms/s | against 178 | useful share of peak | loss |")
    print("|---|---|---|---|---|---|---|")
    reference = min(seconds["padded to 178, dense mask"])
    for name, items in variants.items():
        best, tokens = min(seconds[name]), sum(x.shape[0] * x.shape[1] for x, _ in items)
        fraction, rate = 6 * parameters * sizes.sum() / best / peak, sizes.sum() / best
        print(
            f"| {name} | {100 * (1 - sizes.sum() / tokens):.1f} % | {len(frames) / best:.2f} | {rate:.0f} "
            f"| {reference / best:.2f}× | {100 * fraction:.1f} % | {loss[name]:.6f} |"
        )


if __name__ == "__main__":
    main()
