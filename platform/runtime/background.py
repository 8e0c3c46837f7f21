"""Run a function in a thread, for what takes Ctrl-C for itself in the main one."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def run_in_thread(work: Callable[[], T]) -> Future[T]:
    """Start `work` in a thread; returns the future of its result.

    Meant for `fit` of Ray Train and Ray Tune. In the main thread they would install handlers of SIGINT: after Ctrl-C
    Tune ends without an error, and Train keeps its handler even after the run. So Ctrl-C is raised in the caller, who
    waits with a timeout and decides. The thread is a daemon, unlike an executor's, which the interpreter would join.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome
