"""Samples on a cluster of two nodes, of which one is taken away in the middle. Run by test_sampling_restart.py.

python losing_a_node.py CHECKPOINT DATA OUT [undisturbed]
"""

import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))

from boltzray.runtime.environment import prepare  # noqa: E402

prepare()

import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from boltzray.samplers import SMCConfig  # noqa: E402
from boltzray.sampling.energy_actors import EnergyConfig  # noqa: E402
from boltzray.sampling.flow_actors import ActorsConfig  # noqa: E402
from boltzray.sampling.sample import SampleJob, sample  # noqa: E402

N_ACTORS = 2
STEPS = 60  # a node must be gone before the last of them


def job(checkpoint: str, data: str, out: str) -> SampleJob:
    """Blocks over 100 kB, which Ray keeps on the node that made them."""
    return SampleJob(
        sequence="AA",
        checkpoint=checkpoint,
        data_dir=data,
        out=out,
        samples=768,
        smc_particles=768,
        checkpoint_s=0.0,
        smc=SMCConfig(schedule="linear", n_steps=STEPS, step_size=1e-6, block_size=256),
        energy=EnergyConfig(engine="openmm"),
        actors=ActorsConfig(flow_replicas=N_ACTORS, energy_actors=N_ACTORS),
    )


def take_away(cluster: Any, node: Any, run: Path, seen: list[int]) -> None:
    """Kill the node once SMC has a few checkpoints. The dashboard would take too long to say who is on it."""
    while not any(run.glob("smc-00000[3-9]")):
        time.sleep(0.01)
    alive = ray._private.state.actors(actor_state_name="ALIVE").values()
    seen.append(sum(actor["Address"]["NodeID"] == node.node_id for actor in alive))
    cluster.remove_node(node, allow_graceful=False)
    print("node removed", flush=True)


def main() -> None:
    checkpoint, data, out = sys.argv[1:4]
    disturbed = len(sys.argv) == 4
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": True, "dashboard_port": 0}
    )
    seen: list[int] = []
    try:
        node = cluster.add_node(num_cpus=2)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        if disturbed:
            threading.Thread(target=take_away, args=(cluster, node, Path(out) / "run", seen), daemon=True).start()
        sample(job(checkpoint, data, out))
        print(f"{seen[0] if seen else 0} actors were on the node", flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
