"""Seconds, CPU and memory of whole commands, of one checkout next to another, run in turn.

    python benchmarks/startup.py --others /path/to/another/checkout --runs 5
    python benchmarks/startup.py --only "sample 1,000" finetune

Each checkout has its interpreter in .venv. CPU and memory are of all processes that a command starts: memory is the
largest sum of their resident sizes, looked at ten times a second, and counts shared pages in each. Results go to a
temporary folder. Prints Markdown: medians over runs, and the median of the ratios within a turn.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

SAMPLE = ("sample", "sequence=DG", "data_dir=none")
COMMANDS = {
    "sample 1,000": (*SAMPLE, "samples=1000", "sampler=snis"),
    "sample 100,000": (*SAMPLE, "samples=100000", "sampler=snis"),
    "sample, SMC": (*SAMPLE, "samples=512", "smc_particles=128"),
    "finetune": ("finetune", "sequence=DG", "data_dir=none", "budget=20000"),
    "train": ("train", "data.path={data}", "train.steps=20", "validation.every=0"),
}
DATA = ("simulate", "sequences=[AA]", "time_ns=0.005", "replicas=8", "hold_out=2", "md.warmup_ps=1")
EVERY_S = 0.1


class Cost(NamedTuple):
    """Cost of a command: seconds, seconds of CPU, MB."""

    wall: float
    cpu: float
    memory: float


def run(checkout: Path, home: Path, command: tuple[str, ...]) -> Cost:
    """Run a job to its end. Raises: RuntimeError with its output if it fails."""
    job, *arguments = command
    own = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "PYTHONPATH")}
    began = time.perf_counter()
    process = subprocess.Popen(
        [str(checkout / ".venv/bin/python"), str(checkout / "jobs" / f"{job}.py"), *arguments],
        cwd=home,
        env=own | {"BOLTZRAY_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    cpu: dict[tuple[int, float], float] = {}
    memory, whole = 0.0, psutil.Process(process.pid)
    with (home / "log").open("w") as log:
        reader = threading.Thread(target=lambda: log.writelines(process.stdout or ()))
        reader.start()
        while process.poll() is None:
            resident = 0
            with suppress(psutil.Error):
                for one in [whole, *whole.children(recursive=True)]:
                    with suppress(psutil.Error):
                        times = one.cpu_times()
                        cpu[one.pid, one.create_time()] = times.user + times.system
                        resident += one.memory_info().rss
            memory = max(memory, resident / 1e6)
            time.sleep(EVERY_S)
        wall = time.perf_counter() - began
        reader.join()
    if process.returncode:
        raise RuntimeError((home / "log").read_text())
    return Cost(wall, sum(cpu.values()), memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="checkouts to compare with")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(COMMANDS), choices=list(COMMANDS))
    options = parser.parse_args()
    checkouts = [*(path.absolute() for path in options.others), Path(__file__).absolute().parent.parent]
    with tempfile.TemporaryDirectory() as folder:
        homes = {checkout: Path(folder) / str(number) for number, checkout in enumerate(checkouts)}
        for home in homes.values():
            home.mkdir()
        data = Path(folder) / "0" / "data"
        if "train" in options.only:
            run(checkouts[0], homes[checkouts[0]], (*DATA, f"out={data}"))
        print(
            "| command | checkout | s | CPU s | MB | wall, against the first | memory |\n|---|---|---|---|---|---|---|"
        )
        for name in options.only:
            command = tuple(word.format(data=data) for word in COMMANDS[name])
            costs: dict[Path, list[Cost]] = {checkout: [] for checkout in checkouts}
            for turn in range(options.runs):
                for checkout, home in homes.items():
                    costs[checkout].append(run(checkout, home, (*command, f"out=run-{turn}-{len(name)}-{name[-3:]}")))
                    print(".", end="", file=sys.stderr, flush=True)
            first = costs[checkouts[0]]
            for checkout, found in costs.items():
                medians = [statistics.median(column) for column in zip(*found, strict=True)]
                wall, memory = (
                    statistics.median(getattr(a, key) / getattr(b, key) for a, b in zip(found, first, strict=True))
                    for key in ("wall", "memory")
                )
                label = subprocess.run(
                    ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
                ).stdout.strip()
                cells = f"{medians[0]:.1f} | {medians[1]:.1f} | {medians[2]:.0f} | {wall:.2f} | {memory:.2f}"
                print(f"| {name} | {label} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
