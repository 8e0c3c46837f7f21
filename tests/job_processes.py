"""Jobs in processes of their own, as a user starts, stops and kills them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

RunHere = Callable[..., subprocess.CompletedProcess[str]]  # the fixture run_here of tests/jobs
JOBS = Path(__file__).parent.parent / "jobs"


def environment(home: Path) -> dict[str, str]:
    """For a process with a results' home and a Ray of its own, whose workers import the code that is tested."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    own = {"BOLTZRAY_HOME": str(home), "PYTHONPATH": str(JOBS.parent)}
    return kept | own | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}


def run_job(
    home: Path, job: str, *arguments: str, timeout_s: float = 300.0, jobs: Path = JOBS, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `jobs/JOB.py` to its end, however that is, with further variables of the environment."""
    return subprocess.run(
        [sys.executable, str(jobs / f"{job}.py"), *arguments],
        cwd=home,
        env=environment(home) | variables,
        capture_output=True,
        text=True,
        errors="replace",  # a terminal that is not UTF-8
        timeout=timeout_s,
    )


def stop_job(
    home: Path, by: signal.Signals, when: Callable[[], bool], job: str, *arguments: str, of_all: bool = False
) -> str:
    """Start `jobs/JOB.py`, send it the signal `by` as soon as `when()` is true; returns its output.

    `of_all`: to all processes that it has started, too.
    Raises: AssertionError if it ends before, or in another way than by this signal, or leaves a process behind.
    """
    log = home / f"{by.name}.log"  # no pipe: what a killed job has started would keep it open
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(JOBS / f"{job}.py"), *arguments],
            cwd=home,
            env=environment(home),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background shells ignore it
        )
        try:
            deadline = time.monotonic() + 300
            while not when():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            started = psutil.Process(process.pid).children(recursive=True)
            for one in started if of_all else ():
                with suppress(psutil.NoSuchProcess):
                    one.send_signal(by)
            process.send_signal(by)
            process.wait(120)
            if by != signal.SIGKILL:  # after that Ray's agents find out for themselves, in minutes
                assert not psutil.wait_procs(started, timeout=30)[1]
        finally:
            process.kill()
    expected = -by if by == signal.SIGKILL else 128 + by  # as a shell has it
    assert process.returncode == expected, log.read_text()
    return log.read_text()
