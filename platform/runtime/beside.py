"""A process beside a job's that talks to MLflow: importing that takes seconds, in which the job has long begun.

It gets what is to be logged through a socket, in order, and does it however the job ends: a job that is killed loses
nothing that it has logged. The job waits for it at its end, and where it asks something. A process that has died is as
one that was never started.
"""

import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

STOPPED_S = 5.0  # for what is still to be logged, of a job that was stopped
PATIENCE_S = 0.2  # for a message to be written, after which a slow store holds up the job no longer


class Beside:
    """The end of the socket in the job: calls of a module's functions, by name."""

    def __init__(self, module: str) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", __name__, str(theirs.fileno()), module]
        # A session of its own: Ctrl-C in a terminal is for the job, which then says what to log of that.
        self.process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        self._lock, self._number, self._used = threading.Lock(), 0, False
        # A thread writes: Ctrl-C, which is the main thread's, leaves no half message.
        self._messages: queue.SimpleQueue[tuple[bytes, threading.Event] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def _write(self) -> None:
        with suppress(OSError):  # the process is gone, which the next message finds
            while (message := self._messages.get()) is not None:
                self._connection.send_bytes(message[0])
                message[1].set()

    def _put(self, number: int | None, name: str, arguments: tuple[Any, ...]) -> None:
        if self.process.poll() is not None:
            raise OSError("the process that writes to MLflow has died")
        self._used, written = True, threading.Event()
        self._messages.put((pickle.dumps((number, name, arguments)), written))
        written.wait(PATIENCE_S)

    def send(self, name: str, *arguments: Any) -> None:
        """Have a function called, whose result nobody wants. Raises: OSError if the process is gone."""
        self._put(None, name, arguments)

    def call(self, name: str, *arguments: Any) -> Any:
        """Return what a function returns. Raises: RuntimeError for its error; OSError, EOFError if it is gone."""
        with self._lock:
            self._number += 1
            self._put(self._number, name, arguments)
            while True:  # an interrupted call leaves its answer behind
                number, value, error = self._connection.recv()
                if number == self._number:
                    break
        if error is not None:
            raise RuntimeError(error)
        return value

    def close(self, seconds: float | None) -> None:
        """Wait until all is done that was sent, at most so many seconds: it goes on by itself."""
        self._messages.put(None)
        self._writer.join(seconds)
        self._connection.close()
        if not self._used:
            self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)


_beside: Beside | None = None


def start(module: str) -> None:
    """Start the process, which imports `module` meanwhile."""
    global _beside
    _beside = _beside or Beside(module)


def running() -> Beside | None:
    """Return the process that was started, if there is one and it lives."""
    return _beside if _beside and _beside.process.poll() is None else None


def end(*, stopped: bool = False) -> None:
    """Wait for the process, if one was started; of a job that was `stopped`, for a while."""
    global _beside
    found, _beside = _beside, None
    if found:
        found.close(STOPPED_S if stopped else None)


def _serve(connection: Connection, module: Any) -> None:
    """Answer calls until the job has ended."""
    while True:
        try:
            number, name, arguments = connection.recv()
        except (EOFError, OSError):
            return
        value, error = None, None
        try:
            value = getattr(module, name)(*arguments)
        except Exception as raised:
            error = repr(raised)  # what is raised may not pickle
            if number is None:
                print(f"warning: logging to MLflow failed: {error}", file=sys.stderr, flush=True)
        if number is not None:
            with suppress(OSError):
                connection.send((number, value, error))


if __name__ == "__main__":
    for unwanted in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(unwanted, signal.SIG_IGN)
    os.set_inheritable(int(sys.argv[1]), False)
    _serve(Connection(int(sys.argv[1])), import_module(sys.argv[2]))
