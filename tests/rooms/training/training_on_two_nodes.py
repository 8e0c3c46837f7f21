"""Trains on a cluster of two nodes, of which one is taken away in the middle. Run by test_train_nodes.py.

python training_on_two_nodes.py DATA OUT undisturbed|removed|announced
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
from ray.core.generated import autoscaler_pb2  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402
from ray.util.state import list_actors  # noqa: E402

from boltzray.runtime.config import parse  # noqa: E402
from boltzray.runtime.tracking import Tracker  # noqa: E402
from boltzray.training.train import TrainJob, train  # noqa: E402

STEPS, EVERY = 400, 10


def job(data: str, out: str, mode: str) -> TrainJob:
    """Two workers; where the end of a node is announced, only that makes a checkpoint before the last step."""
    settings = {
        "out": out,
        "data": {"path": data, "sequences": ["GP", "FS"], "bucket_steps": 4, "shards_per_window": 1},
        "model": {"channels": 16, "head_dim": 8, "blocks": 2, "layers_per_block": 1},
        "train": {"steps": STEPS, "batch": 30, "lr": 3e-3, "precision": "float32"},
        "validation": {"every": 0},
        "workers": {"workers": 2, "threads": 1},
        "checkpoint_every": STEPS if mode == "announced" else 20,
        "log_every": EVERY,
    }
    return parse(TrainJob, settings)


class Occupant:
    """Holds CPUs of the head, so that the workers have to be on the other node."""

    def ready(self) -> bool:
        return True


def step_of(out: Path) -> float:
    tracker = Tracker.find(out)
    return tracker.latest().get("step", 0.0) if tracker else 0.0


def take_away(cluster: Any, node: Any, occupant: Any, out: Path, mode: str, seen: list[int]) -> None:
    """Kill the node once training is under way; after an announcement, once that has made a checkpoint."""
    wanted = out / "checkpoint" / "flow.json"
    if mode == "announced":
        while step_of(out) < 3 * EVERY:
            time.sleep(0.2)
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline = int(time.time() * 1000) + 600_000
        accepted, why = ray._raylet.GcsClient(address=cluster.address).drain_node(
            node.node_id, reason, "a test", deadline
        )
        print(f"announced: {accepted} {why}", flush=True)
    while not wanted.exists():
        time.sleep(0.05)
    workers = [a for a in list_actors(limit=1000) if "RayTrainWorker" in a.class_name and a.state == "ALIVE"]
    seen.append(sum(a.node_id == node.node_id for a in workers))
    cluster.remove_node(node, allow_graceful=False)
    ray.kill(occupant)  # room for the workers
    print(f"node removed at step {step_of(out):.0f}", flush=True)


def main() -> None:
    data, out, mode = sys.argv[1:4]
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": True, "dashboard_port": 0}
    )
    seen: list[int] = []
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        head = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        occupant = ray.remote(Occupant).options(num_cpus=3, scheduling_strategy=head).remote()
        ray.get(occupant.ready.remote())
        node = cluster.add_node(num_cpus=4)
        cluster.wait_for_nodes()
        if mode != "undisturbed":
            arguments = (cluster, node, occupant, Path(out), mode, seen)
            threading.Thread(target=take_away, args=arguments, daemon=True).start()
        train(job(data, out, mode))
        print(f"{seen[0] if seen else 0} workers were on the node", flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
