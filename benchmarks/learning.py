"""What a flow of internal coordinates has learned after so many seconds of one core: architectures at equal cost.

    python jobs/simulate.py peptides=dipeptides
    OMP_NUM_THREADS=1 python benchmarks/learning.py outputs/dipeptides/data --seconds 300 --channels 96 --layers 4

Every twentieth peptide is held out: the negative log-likelihood of its frames, in nats a frame, is compared at equal
cost. `--draw` also weighs draws of published test peptides. An earlier version is measured by running this file on a
checkout of it (`PYTHONPATH=EARLIER`, with `--blocks 4 --layers 1`). CPU time counts, so other work matters
less; still, read differences. Prints Markdown.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from boltzray import models
from boltzray.data.collate import Collator
from boltzray.models.augment import augment
from boltzray.molecules import BatchedEnergy, Peptide
from boltzray.molecules.runs import load_trajectory
from boltzray.samplers import com_log_density, snis
from boltzray.training.train_step import Learner, TrainConfig

SCALE_NM = 0.2173
POOL = 8  # steps whose frames are sorted by atoms and cut into batches
WARM_UP = 10  # steps that are timed to plan the rest


def frames_of(data: Path, limit: int) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {}
    for folder in sorted((data / "md").iterdir()):
        found.setdefault(folder.name.split("_")[0], []).append(load_trajectory(folder))
    return {name: np.concatenate(parts) for name, parts in list(found.items())[:limit]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--channels", type=int, default=96)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--limit", type=int, default=100, help="peptides")
    parser.add_argument("--draw", nargs="*", default=[])
    o = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    frames = frames_of(o.data, o.limit)
    peptides = {name: Peptide.from_sequence(name) for name in frames}
    held = list(frames)[::20]
    learned = [name for name in frames if name not in held]
    config = models.FlowConfig(
        channels=o.channels, head_dim=32, blocks=o.blocks, layers_per_block=o.layers, coordinates="internal"
    )

    def learner(steps: int) -> Learner:
        torch.manual_seed(0)
        train = TrainConfig(steps=steps, batch=o.batch, lr=o.lr, ema=0.99)
        return Learner(models.Flow(config, SCALE_NM), train, device=torch.device("cpu"))

    trainee = learner(1000)
    collator = Collator(trainee.flow, peptides)

    def batches() -> list[tuple[torch.Tensor, object]]:
        names = sorted(rng.choice(learned, POOL * o.batch), key=lambda name: peptides[name].n_atoms)
        parts = [names[i : i + o.batch] for i in range(0, len(names), o.batch)]
        rng.shuffle(parts)
        return [collator(part, [one_frame(name) for name in part]) for part in parts]

    def one_frame(name: str) -> np.ndarray:
        return augment(frames[name][rng.integers(len(frames[name]))][None], SCALE_NM, rng)[0]

    some = batches() + batches()
    for batch in some[:2]:
        trainee.step(*batch)
    began = time.process_time()
    for batch in some[2 : 2 + WARM_UP]:
        trainee.step(*batch)
    each = (time.process_time() - began) / WARM_UP
    steps = int(o.seconds / each)
    trainee, spent = learner(steps), 0.0
    while trainee.steps_done < steps:
        for batch in batches()[: steps - trainee.steps_done]:
            began = time.process_time()
            trainee.step(*batch)
            spent += time.process_time() - began
    flow = trainee.averaged().eval()
    count = sum(p.numel() for p in flow.parameters())
    nll = np.mean([likelihood(flow, peptides[name], frames[name]) for name in held])
    drawn = [f"{name} {worth(flow, name):.3f}" for name in o.draw]
    size = f"{o.channels} × {o.blocks} × {o.layers} | {count / 1e6:.2f} M"
    rate = o.batch * steps / spent
    print(f"| {size} | {spent:.0f} | {steps} | {rate:.0f} | {nll:.2f} | {', '.join(drawn)} |")


@torch.no_grad()
def likelihood(flow: models.Flow, peptide: Peptide, positions_nm: np.ndarray) -> float:
    """Negative log-likelihood of frames that the flow has not learned, in nats."""
    given = peptide.iupac()
    some = positions_nm[:: max(1, len(positions_nm) // 256)][:, peptide.iupac_order]
    x = torch.from_numpy(augment(some, SCALE_NM, np.random.default_rng(1)))
    return -float(flow.log_prob(x, flow.condition(given)).mean())


def worth(flow: models.Flow, sequence: str, n: int = 4000) -> float:
    """ESS of draws of a peptide."""
    peptide = Peptide.from_sequence(sequence)
    x, log_q = flow.sample(flow.condition(peptide), n, torch.Generator().manual_seed(0))
    found = BatchedEnergy(peptide, 310.0).evaluate((x * SCALE_NM).double(), gradient=False)
    return snis(None, log_q, torch.where(found.ok, com_log_density(x)[0] - found.energy, -torch.inf)).ess


if __name__ == "__main__":
    main()
