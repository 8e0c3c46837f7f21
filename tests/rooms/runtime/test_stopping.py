"""SIGTERM and SIGHUP end a job as Ctrl-C does, whatever it does at the time and whatever handlers others set."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from boltzray.runtime.stopping import stoppable

CODE = """
import os, signal, sys, threading, time
from boltzray.runtime import stopping
stopping.GRACE_S = 1.0
stopping.last_words.append(lambda: print("last words", flush=True))
with stopping.stoppable():
    # What Ray does in C++: a handler of its own, without a word to Python.
    import ctypes
    ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p))
    try:
        print("ready", flush=True)
        {work}
    except KeyboardInterrupt:
        print(f"cleaned up, {{stopping.was_stopped()}}", flush=True)
        sys.exit(stopping.exit_code())
"""
ENDLESS = "while True:\n            try: time.sleep(100)\n            except KeyboardInterrupt: pass"


@pytest.mark.parametrize(
    ("work", "by", "says"),
    [
        ("time.sleep(100)", signal.SIGTERM, "cleaned up, True"),
        ("threading.Event().wait(100)", signal.SIGTERM, "cleaned up, True"),
        ("while True: pass", signal.SIGHUP, "cleaned up, True"),
        (ENDLESS, signal.SIGTERM, "last words"),
    ],
)
def test_a_signal_interrupts_what_the_job_does(root: Path, work: str, by: signal.Signals, says: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE.format(work=work)],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # the tests may run below nohup
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(by)
        output, error = process.communicate(timeout=20)
    finally:
        process.kill()
    assert says in output, error
    assert process.returncode == 128 + by


def test_nohup_is_left_alone(root: Path) -> None:
    code = CODE.format(work="time.sleep(0.5)")
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    assert process.wait(20) == 0


def test_a_process_is_afterwards_as_it_was() -> None:
    before = signal.getsignal(signal.SIGUSR2), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with stoppable():
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert before == (signal.getsignal(signal.SIGUSR2), signal.pthread_sigmask(signal.SIG_BLOCK, []))
