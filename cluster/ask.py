"""Ask the autoscaler of this cluster for nodes, and wait until they are there; without arguments let them go."""

import argparse
import sys
import time

import ray
from ray.autoscaler.sdk import request_resources


def missing(cpus: int, gpus: int) -> dict[str, float]:
    """Return the resources that the cluster does not have yet."""
    there = ray.cluster_resources()
    wanted = {"CPU": cpus, "GPU": gpus}
    return {name: count - there.get(name, 0) for name, count in wanted.items() if there.get(name, 0) < count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpus", type=int, default=0)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--patience-s", type=float, default=1800.0)
    asked = parser.parse_args()
    ray.init(address="auto", log_to_driver=False)
    request_resources(bundles=[{"CPU": 1}] * asked.cpus + [{"GPU": 1}] * asked.gpus)
    deadline = time.monotonic() + asked.patience_s
    while lacking := missing(asked.cpus, asked.gpus):
        if time.monotonic() > deadline:
            sys.exit(f"still missing after {asked.patience_s:g} s: {lacking}; see `ray status`")
        print(f"waiting for {lacking}", flush=True)
        time.sleep(10.0)
    print({name: count for name, count in ray.cluster_resources().items() if name in ("CPU", "GPU")})


if __name__ == "__main__":
    main()
