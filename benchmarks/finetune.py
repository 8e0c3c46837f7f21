"""ESS before and after finetuning, for every objective and several seeds, at one budget of energies.

    python benchmarks/finetune.py --checkpoint outputs/train/checkpoint --sequence AA --budget 20000

The flow is judged before and after by --draws draws from the same latents, which are not part of the budget: the ESS
of a round's own draws is too noisy for that. Everything runs in one process and thread. A run that is stopped goes on;
results stay in OUT, below BOLTZRAY_HOME.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parent.parent))

import boltzray  # noqa: F401
from boltzray.runtime.environment import prepare

prepare()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from boltzray import models  # noqa: E402
from boltzray.finetuning.budget import LEAST_DRAWS  # noqa: E402
from boltzray.finetuning.config import FinetuneJob, OptimizerConfig  # noqa: E402
from boltzray.finetuning.finetune import finetune  # noqa: E402
from boltzray.models.losses import ObjectiveConfig  # noqa: E402
from boltzray.molecules.batched.energy import BatchedEnergy  # noqa: E402
from boltzray.molecules.peptide import Peptide  # noqa: E402
from boltzray.molecules.reference_match import in_order_of  # noqa: E402
from boltzray.molecules.references import find_pdb, find_reference, load_reference  # noqa: E402
from boltzray.molecules.transport import wasserstein_1d  # noqa: E402
from boltzray.runtime.config import data_folder, results_home  # noqa: E402
from boltzray.samplers import com_log_density, snis  # noqa: E402

ON_POLICY = {"reverse_kl": 1.0}  # its steps cost energies: batches are as large as the budget allows
VARIANTS = {
    "self_improve": ({"self_improve": 1.0}, 1.0),
    "self_improve, no teacher": ({"self_improve": 1.0}, 0.0),
    "forward_kl": ({"forward_kl": 1.0}, 0.0),
    "reverse_kl": ({"reverse_kl": 1.0}, 0.0),
    "log_variance": ({"log_variance": 1.0}, 0.0),
    "alpha2": ({"alpha2": 1.0}, 0.0),
    "anneal": ({"anneal": 1.0}, 0.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="outputs/train/checkpoint")
    parser.add_argument("--sequence", default="AA")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--budget", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=100, help="a round")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=4000, help="that judge a flow")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), help="some of: " + "; ".join(VARIANTS))
    parser.add_argument("--out", default="outputs/finetune_benchmark")
    a = parser.parse_args()
    torch.set_num_threads(1)
    start = worth(models.locate(a.checkpoint, results_home()), a)
    print(json.dumps({"before": start}), flush=True)
    found: dict[str, list[dict]] = {}
    for seed in range(a.seeds):
        for name in a.only:
            terms, teacher = VARIANTS[name]
            job = FinetuneJob(
                sequence=a.sequence,
                checkpoint=a.checkpoint,
                out=f"{a.out}/{name.replace(', ', '-').replace(' ', '-')}-{seed}",
                objective=ObjectiveConfig(terms=terms, teacher=teacher),
                budget=a.budget,
                rounds=a.rounds,
                steps=a.steps,
                batch=min(a.batch, (a.budget // (a.rounds + 1) - LEAST_DRAWS) // a.steps)
                if terms == ON_POLICY
                else a.batch,
                optimizer=OptimizerConfig(lr=a.lr),
                seed=seed,
                data_dir=a.data_dir,
                in_process=True,
            )
            try:
                out = finetune(job)
            except FloatingPointError as error:
                print(f"{name}: {error}", flush=True)
                continue
            rounds = json.loads((out / "rounds.json").read_text())
            after = worth(out / "checkpoint", a) | {"seconds": rounds[-1]["seconds"]}
            found.setdefault(name, []).append(after)
            print(json.dumps({"objective": name, "seed": seed, **after}), flush=True)
    print(f"\nbefore: ESS {100 * start['ess']:.1f} %, k̂ {start['k_hat']:.2f}, energy W2 {start['energy_w2']:.2f} kT")
    print("| objective | ESS after, %, by seed | mean | mean k̂ | mean energy W2, kT | seconds |")
    print("|---|---|---|---|---|---|")
    for name, runs in found.items():
        row = [name, ", ".join(f"{100 * r['ess']:.1f}" for r in runs), f"{100 * mean(r['ess'] for r in runs):.1f}"]
        row += [f"{mean(r[key] for r in runs):.2f}" for key in ("k_hat", "energy_w2")]
        print("| " + " | ".join([*row, f"{mean(r['seconds'] for r in runs):.0f}"]) + " |")


def worth(checkpoint: Path, a: argparse.Namespace) -> dict[str, float]:
    """ESS, k̂ and energy W2 of a flow, from latents that are always the same."""
    flow, data = models.load(checkpoint), data_folder(a.data_dir)
    path = find_pdb(data, a.sequence)
    given = Peptide.from_pdb(path) if path else Peptide.from_sequence(a.sequence)
    peptide = given.iupac()
    energy, condition, generator = BatchedEnergy(peptide), flow.condition(peptide), torch.Generator().manual_seed(12345)
    log_q, kt, com = [], [], []
    for low in range(0, a.draws, 256):
        x, q = flow.sample(condition, min(256, a.draws - low), generator)
        found = energy.evaluate_arrays(x.double().numpy() * flow.scale_nm, gradient=False)
        log_q.append(q.double().numpy())
        kt.append(found.energy)
        com.append(com_log_density(x)[0].numpy())
    u = np.concatenate(kt)
    result = snis(None, np.concatenate(log_q), np.concatenate(com) - u)
    distance = float("nan")
    if reference := find_reference(data, a.sequence):
        md = in_order_of(peptide, load_reference(reference), given).subsampled(10_000)
        of_md = energy.evaluate_arrays(md.positions_nm, gradient=False).energy
        alive = np.isfinite(u)
        weight = np.exp(result.log_w.numpy()[alive] - result.log_w.numpy().max())
        distance = wasserstein_1d(of_md, u[alive], md.weights, weight, order=2)
    return {"ess": result.ess, "k_hat": float("nan") if result.k_hat is None else result.k_hat, "energy_w2": distance}


if __name__ == "__main__":
    main()
