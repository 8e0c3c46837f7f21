"""A night without anyone watching, in an hour: jobs one after the other while actors and workers are killed.

    python benchmarks/soak.py --minutes 60 --out outputs/soak

A Ray head of its own (two CPUs, loopback, a token) is started. Sampling (flow actors, SMC) and training (Ray Data, two
Train workers) are submitted through Ray's job server in turn, and every minute one of their processes, by chance, gets
SIGKILL. A job that fails is submitted again, as a user would. Each result must be the one of an undisturbed run, to the
last bit. `soak.png` shows memory, object store, actors and kills; `soak.json` holds the numbers.
"""

import argparse
import hashlib
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
JOBS = {
    "sample": (
        "jobs/sample.py sequence=DG samples=4096 smc=mala smc_particles=4096 smc.block_size=64 checkpoint_s=2 "
        "actors.flow_replicas=2 data_dir=none",
        "samples.npz",
    ),
    "train": (
        f"jobs/train.py data.path={ROOT}/tests/data model=internal model.channels=32 "
        "model.layers_per_block=2 train.steps=500 "
        "train.batch=32 workers.workers=2 checkpoint_every=100 validation.every=0",
        "checkpoint/model.safetensors",
    ),
}
# A job's driver and controller, the node itself, which ends with its agent, and what Ray keeps for itself.
SPARED = ("JobSupervisor", "TrainController", "Agent", "Head", "IDLE", "_StatsActor", "_AutoscalingCoordinator")


@dataclass
class Watch:
    """Observations of a soak, each with its time in minutes."""

    began: float = field(default_factory=time.monotonic)
    memory: list[tuple[float, float, float, int]] = field(default_factory=list)  # GB, object store in MB, actors
    kills: list[tuple[float, str]] = field(default_factory=list)
    jobs: list[dict[str, object]] = field(default_factory=list)

    def now(self) -> float:
        return (time.monotonic() - self.began) / 60


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def start_head(out: Path) -> tuple[subprocess.Popen[bytes], str, str]:
    port, dashboard = free_port(), free_port()
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "BOLTZRAY_HOME": str(out),
    }
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
    command += ["--object-store-memory=500000000", "--node-ip-address=127.0.0.1"]
    log = (out / "ray.log").open("wb")
    head = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    return head, f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"


def children(head: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(head.pid).children(recursive=True)


def victims(head: subprocess.Popen[bytes]) -> list[tuple[psutil.Process, str]]:
    """Processes of actors and tasks, and what they are; none between two jobs."""
    found = []
    for one in children(head):
        with suppress(psutil.NoSuchProcess):
            name = (one.cmdline() or [""])[0]
            if name.startswith("ray::") and not any(spared in name for spared in SPARED):
                found.append((one, name.removeprefix("ray::").split("(")[0]))
    return found


def killer(head: subprocess.Popen[bytes], watch: Watch, every: float, stop: Event) -> None:
    chance = random.Random(0)
    while not stop.wait(every):
        while not (there := victims(head)) and not stop.wait(0.5):
            pass
        if stop.is_set():
            return
        process, name = chance.choice(there)
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
            watch.kills.append((watch.now(), name))
            print(f"{watch.now():6.1f} min  killed {name}", flush=True)


def observer(head: subprocess.Popen[bytes], watch: Watch, stop: Event) -> None:
    """Memory of all processes of the cluster; of the object store; live actors. Ray is asked as by any driver."""
    import ray
    from ray.util.state import list_actors

    total = ray.cluster_resources()["object_store_memory"]
    while not stop.wait(10):
        memory = 0
        for one in children(head):
            with suppress(psutil.NoSuchProcess):
                memory += one.memory_full_info().uss
        with suppress(Exception):  # the dashboard may be busy
            used = total - ray.available_resources().get("object_store_memory", total)
            actors = len(list_actors(filters=[("state", "=", "ALIVE")]))
            watch.memory.append((watch.now(), memory / 1e9, used / 1e6, actors))


def submit(client: object, kind: str, name: str, watch: Watch, out: Path) -> str:
    """One job until it has succeeded; the hash of its result."""
    command, result = JOBS[kind]
    began, attempts = watch.now(), 0
    while True:
        attempts += 1
        job = client.submit_job(entrypoint=f"cd {ROOT} && {sys.executable} {command} out={name}")  # type: ignore[attr-defined]
        while not (status := client.get_job_status(job)).is_terminal():  # type: ignore[attr-defined]
            time.sleep(1)
        if status.value == "SUCCEEDED":
            break
        (out / f"{name}.{attempts}.log").write_text(client.get_job_logs(job))  # type: ignore[attr-defined]
        print(f"{watch.now():6.1f} min  {name} failed, submitted again", flush=True)
        if attempts == 5:
            raise SystemExit(f"{name} failed five times: {out / name}.*.log")
    found = content(out / name / result)
    watch.jobs.append({"name": name, "began": began, "ended": watch.now(), "attempts": attempts, "result": found})
    print(f"{watch.now():6.1f} min  {name} done  {found[:12]}  attempts {attempts}", flush=True)
    shutil.rmtree(out / name)
    return found


def content(path: Path) -> str:
    """A hash of arrays, not of the file, whose zip has a date."""
    if path.suffix != ".npz":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    arrays = np.load(path)
    return hashlib.sha256(b"".join(arrays[key].tobytes() for key in sorted(arrays))).hexdigest()


def plot(watch: Watch, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    minutes, memory, store, actors = zip(*watch.memory, strict=True)
    figure, axes = plt.subplots(3, 1, figsize=(8, 6), sharex=True, layout="constrained")
    for axis, values, label in zip(
        axes,
        (memory, store, actors),
        ("memory of\nall processes / GB", "object store / MB", "live actors"),
        strict=True,
    ):
        axis.plot(minutes, values, lw=1)
        axis.set(ylabel=label, ylim=(0, max(values) * 1.15 + 1e-9))
        for when, _ in watch.kills:
            axis.axvline(when, color="tab:red", lw=0.5, alpha=0.5)
        for job in watch.jobs:
            axis.axvline(job["ended"], color="0.7", lw=0.5, ls=":")
    axes[0].set_title(f"{len(watch.jobs)} jobs, {len(watch.kills)} kills (red)", loc="left", fontsize=10)
    axes[-1].set_xlabel("minutes; dotted: a job has ended")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=60, help="seconds between kills")
    parser.add_argument("--out", type=Path, default=Path("outputs/soak"))
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    head, address, dashboard = start_head(out)
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        watch = soak(head, address, dashboard, arguments.minutes, arguments.every, out, stop)
    finally:
        stop.set()
        head.send_signal(signal.SIGTERM)
        head.wait(60)
    plot(watch, out / "soak.png")
    summary = {"jobs": watch.jobs, "kills": watch.kills, "memory": watch.memory}
    (out / "soak.json").write_text(json.dumps(summary, indent=1))
    tell(watch, out)


def soak(
    head: subprocess.Popen[bytes], address: str, dashboard: str, minutes: float, every: float, out: Path, stop: Event
) -> Watch:
    import ray
    from ray.job_submission import JobSubmissionClient

    for tries in range(60):
        try:
            if not ray.is_initialized():
                ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            client = JobSubmissionClient(dashboard)
            break
        except Exception as error:
            if tries == 59:
                raise
            print(f"waiting for Ray: {type(error).__name__}", flush=True)
            time.sleep(2)
    watch = Watch()
    wanted = {kind: submit(client, kind, f"{kind}_undisturbed", watch, out) for kind in JOBS}
    Thread(target=observer, args=(head, watch, stop), daemon=True).start()
    Thread(target=killer, args=(head, watch, every, stop), daemon=True).start()
    began, n = watch.now(), 0
    while watch.now() - began < minutes:
        kind = list(JOBS)[n % len(JOBS)]
        if submit(client, kind, f"{kind}_{n}", watch, out) != wanted[kind]:
            raise SystemExit(f"{kind}_{n} ended with other bits than the undisturbed run")
        n += 1
    stop.set()
    ray.shutdown()
    return watch


def tell(watch: Watch, out: Path) -> None:
    quarter = max(1, len(watch.memory) // 4)
    first, last = (
        np.mean([row[1:] for row in rows], axis=0) for rows in (watch.memory[:quarter], watch.memory[-quarter:])
    )
    again = sum(int(str(job["attempts"])) - 1 for job in watch.jobs)
    print(f"\n{len(watch.jobs)} jobs, {len(watch.kills)} kills, {again} jobs submitted again; all results bit for bit")
    for name, a, b in zip(("memory, GB", "object store, MB", "actors"), first, last, strict=True):
        print(f"{name:<18} first quarter {a:8.2f}   last quarter {b:8.2f}")
    print(out / "soak.png")


if __name__ == "__main__":
    main()
