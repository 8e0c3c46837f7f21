"""End a job at SIGTERM or SIGHUP as Ctrl-C ends it. Imports nothing but the standard library: jobs begin with it."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOPPED = "stopped; the same command goes on from here"
GRACE_S = 8.0  # for what a stopped job has to close; `docker stop` kills after 10 s, Slurm and Kubernetes after 30 s

last_words: list[Callable[[], None]] = []  # called before a process that does not end in time is ended

_received: signal.Signals | None = None


def exit_code() -> int:
    """Return the status of a job that was stopped, as shells have it: 128 + number of the signal; 130 for Ctrl-C."""
    return 128 + (_received or signal.SIGINT)


def was_stopped() -> bool:
    """Return True if SIGTERM or SIGHUP has come."""
    return _received is not None


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread at SIGTERM (Slurm, Kubernetes, kill) and SIGHUP (a closed terminal).

    No handler of these signals could stay: Ray sets one of its own, in C++, when a driver connects, which dumps the
    stack and aborts, and removes it with all others at its shutdown. So the signals are blocked, in this thread and in
    all that begin later, and a thread waits for them, whatever handlers there are. It passes them on as SIGUSR2, which
    interrupts what the main thread waits for.

    What is started from here inherits that. So of a local cluster, all of whose processes Slurm or a terminal signals
    together with the job, the job alone ends at once: a driver whose raylet is gone would be ended by Ray, without a
    word. Its processes end with the job, by SIGKILL if need be, as Ray arranges it.

    A job that has not ended `GRACE_S` after the signal is ended, after `last_words`.
    """
    global _received
    wanted = {signal.SIGTERM, signal.SIGHUP} - {s for s in signal.Signals if signal.getsignal(s) is signal.SIG_IGN}
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received, ended = None, threading.Event()
    before = signal.signal(signal.SIGUSR2, _interrupt)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    waiter = threading.Thread(target=_wait, args=(wanted, threading.main_thread().ident, ended), daemon=True)
    waiter.start()
    try:
        yield
    finally:
        ended.set()
        if _received is None and waiter.ident:
            signal.pthread_kill(waiter.ident, signal.SIGTERM)  # it waits for a signal
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGUSR2, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _received
    _received = _received or signal.Signals(number)
    raise KeyboardInterrupt


def _wait(wanted: set[signal.Signals], main: int, ended: threading.Event) -> None:
    """Wait for a signal, interrupt the main thread, and see that the process ends."""
    global _received
    number = signal.sigwait(wanted)
    if ended.is_set():
        return
    _received = signal.Signals(number)
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # Tune's thread would start a new cluster after the shutdown of ours
    signal.pthread_kill(main, signal.SIGUSR2)
    if ended.wait(GRACE_S):
        return
    words = [threading.Thread(target=say, daemon=True) for say in last_words]
    for one in words:
        one.start()
    for one in words:
        one.join(1.0)
    with suppress(OSError):  # no terminal any more
        print(f"\n{STOPPED}", file=sys.stderr, flush=True)
    os._exit(exit_code())
