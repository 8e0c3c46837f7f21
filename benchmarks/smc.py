"""Importance sampling and SMC through the whole distributed machinery, with a density that costs nothing, or 1 ms.

    OMP_NUM_THREADS=1 python benchmarks/smc.py                      the overhead, then a million particles
    OMP_NUM_THREADS=1 python benchmarks/smc.py --particles 100000

A flow's server is replaced by one that draws a Gaussian of 23 atoms and evaluates a narrower one in closed form.
`--sleep-ms` stands for an evaluation that takes that long a particle and no core, so that a machine with few cores
shows what the machinery itself costs. Prints Markdown.

Memory of the driver, above that at its start, shared pages left out: `arrays` it holds for the particles when SMC has
ended; `at rest`, all of the process then; `peak`, the most there was, PSIS of all draws included.
"""

import argparse
import ctypes
import gc
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from boltzray.runtime.environment import prepare

prepare()

import ray  # noqa: E402

from boltzray.runtime.actor_pool import RayWorkers  # noqa: E402
from boltzray.runtime.cluster import ClusterConfig, cluster  # noqa: E402
from boltzray.samplers import Endpoints, SMCConfig, SMCState, Stage, generator, run_smc, smc_steps, snis  # noqa: E402
from boltzray.sampling.flow_actors import BlockServer  # noqa: E402
from boltzray.sampling.population import BlockPopulation, Proposals  # noqa: E402
from boltzray.sampling.smc_checkpoint import save_checkpoint  # noqa: E402

N_ATOMS, STD, SEED = 23, 0.9, 0


class Analytic(BlockServer):
    """Proposal N(0, 1), target N(0, 0.81); counts where its time goes."""

    def __init__(self, sleep_s: float) -> None:
        torch.set_num_threads(1)
        self.sleep_s = sleep_s
        self.evaluating = self.calling = 0.0

    def evaluate(self, x: Tensor) -> Endpoints:
        cpu, began = time.process_time(), time.perf_counter()
        square = x.double().square().sum((1, 2))
        ends = Endpoints(-0.5 * square, -0.5 * square / STD**2, -x, -x / STD**2, torch.ones(len(x), dtype=torch.bool))
        if self.sleep_s:
            time.sleep(max(0.0, self.sleep_s * len(x) - (time.perf_counter() - began)))
        self.evaluating += time.process_time() - cpu
        return ends

    def draw(self, seed: int, block: int, n: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        x = generator(seed, Stage.PROPOSE, 0, block).standard_normal((n, N_ATOMS, 3), np.float32)
        log_p = self.evaluate(torch.tensor(x)).log_p.numpy()
        return x, {"log_q": -0.5 * np.square(x.astype(np.float64)).sum((1, 2)), "log_p": log_p, "energy": -log_p}

    def move(self, *arguments: Any) -> Any:
        began = time.process_time()
        result = super().move(*arguments)
        self.calling += time.process_time() - began
        return result

    def clock(self) -> tuple[float, float, float]:
        """CPU seconds so far in `evaluate`, in `move`, and in this process, which sends and receives as well."""
        return self.evaluating, self.calling, time.process_time()


def config(steps: int, block_size: int) -> SMCConfig:
    return SMCConfig(
        schedule="linear", n_steps=steps, block_size=block_size, step_size=0.02, ess_threshold=1.0, moves_per_step=1
    )


class Memory:
    """Bytes of this process alone (shared pages, such as the object store's, left out), above those at the start."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.start = self.process.memory_full_info().uss
        self.peak = 0

    def now(self) -> int:
        """Return the memory in use, once freed memory has gone back to the system."""
        gc.collect()
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)
        return int(self.process.memory_full_info().uss - self.start)


@contextmanager
def memory() -> Iterator[Memory]:
    """Watches the peak meanwhile."""
    found, stop = Memory(), threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            found.peak = max(found.peak, found.process.memory_full_info().uss - found.start)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def started(n: int, sleep_s: float) -> list[Any]:
    actor = ray.remote(Analytic).options(num_cpus=0, max_restarts=-1)
    actors = [actor.remote(sleep_s) for _ in range(n)]
    ray.get([a.ready.remote() for a in actors])
    return actors


def through_actors(
    actors: list[Any], n: int, steps: int, block_size: int, folder: Path, used: Memory
) -> dict[str, float]:
    """Draw, weigh, anneal, keep; seconds of each, and of what the moves are made of; bytes that the driver holds."""
    chosen, seconds = config(steps, block_size), {}
    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        seconds[name] = time.perf_counter() - clock
        clock = time.perf_counter()

    workers = RayWorkers(actors)
    drawn = Proposals.sample(workers, n, block_size, SEED, folder)
    lap("draw")
    snis(None, drawn.log_q, drawn.log_p)
    lap("weights")
    population = BlockPopulation.start(workers, drawn.blocks(np.arange(n)), block_size, SEED)
    lap("start")
    state, cpu = SMCState.start(n, chosen), time.process_time()
    before = np.sum(ray.get([a.clock.remote() for a in actors]), 0)
    for _, after in smc_steps(population, chosen, SEED, state):
        state = after
    lap("SMC")
    evaluating, moving, total = np.sum(ray.get([a.clock.remote() for a in actors]), 0) - before
    seconds |= {
        "driver": time.process_time() - cpu,
        "evaluation": evaluating,
        "kernel": moving - evaluating,
        "transfer": total - moving,
    }
    arrays = [drawn.log_q, drawn.log_p, drawn.energy, population.log_q, population.log_p, state.log_w, state.eve]
    seconds |= {"arrays": sum(array.nbytes for array in arrays), "at rest": used.now()}
    clock = time.perf_counter()
    save_checkpoint(folder, population, state, [], 0.0)
    lap("checkpoint")
    blocks = (ray.get(block)["x"].astype(np.float64) for block in population.blocks)
    total = sum(float(np.square(x).sum()) for x in blocks)
    seconds["variance"] = total / (n * 3 * N_ATOMS)
    for actor in actors:
        ray.kill(actor)
    return seconds


def million(n: int, steps: int, block_size: int, counts: list[int]) -> None:
    print(f"\n{n:,} particles of {N_ATOMS} atoms, {steps} steps with resampling, blocks of {block_size}\n")
    names = ["draw", "weights", "start", "SMC", "checkpoint", "evaluation", "kernel", "transfer", "driver"]
    print("CPU of the actors in evaluation, kernel and transfer; of the driver in its own column, all during SMC.\n")
    print("| actors | " + " | ".join(names[:5]) + " | CPU: " + " | CPU: ".join(names[5:]), end=" ")
    print("| particle-steps/s | driver, bytes a particle: arrays, at rest, peak | variance (exact 0.81) |")
    print("|---" * 13 + "|")
    for count in counts:
        actors = started(count, 0.0)
        with tempfile.TemporaryDirectory() as folder, memory() as used:
            s = through_actors(actors, n, steps, block_size, Path(folder), used)
        cells = [f"{s[name]:.1f} s" for name in names]
        print(
            f"| {count} | " + " | ".join(cells) + f" | {n * steps / s['SMC']:,.0f} | "
            f"{s['arrays'] / n:.0f}, {s['at rest'] / n:.0f}, {used.peak / n:.0f} | {s['variance']:.4f} |",
            flush=True,
        )


def overhead(n: int, steps: int, block_size: int, sleep_ms: float, counts: list[int]) -> None:
    print(f"\n{n:,} particles, {steps} steps with resampling, blocks of {block_size}, {sleep_ms:g} ms an evaluation\n")
    print("| | SMC | overhead: more than the plain loop, shared out | of so many times one actor's speed |")
    print("|---|---|---|---|")
    server = Analytic(sleep_ms / 1000)
    x = np.concatenate(
        [server.draw(SEED, i, min(block_size, n - lo))[0] for i, lo in enumerate(range(0, n, block_size))]
    )
    began = time.perf_counter()
    run_smc(torch.from_numpy(x), server.evaluate, config(steps, block_size), SEED)
    plain = (time.perf_counter() - began) * steps / (steps + 1)  # the first evaluation is the population's start
    print(f"| plain loop, one process | {plain:.2f} s | | |", flush=True)
    one = None
    for count in counts:
        actors = started(count, sleep_ms / 1000)
        with tempfile.TemporaryDirectory() as folder, memory() as used:
            seconds = through_actors(actors, n, steps, block_size, Path(folder), used)["SMC"]
        one = one or seconds * count
        over, fraction = seconds * count / plain - 1, one / count / seconds
        print(f"| {count} actors | {seconds:.2f} s | {over:+.1%} | {fraction:.1%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--block", type=int, default=256)
    parser.add_argument("--actors", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--sleep-ms", type=float, default=1.0)
    parser.add_argument("--sleep-particles", type=int, default=8192, help="in the part that sleeps")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    snis(None, np.zeros(100), np.random.default_rng(0).standard_normal(100))  # imports count as no particle's memory
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with cluster(ClusterConfig()):
        if arguments.sleep_particles:
            overhead(arguments.sleep_particles, arguments.steps, arguments.block, arguments.sleep_ms, arguments.actors)
        if arguments.particles:
            million(arguments.particles, arguments.steps, arguments.block, arguments.actors)


if __name__ == "__main__":
    main()
