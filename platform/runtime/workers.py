"""Workers: servers of one kind, any of which answers any call; here as threads of this process."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from .cpu_affinity import release_core

Call = tuple[Any, ...]  # the arguments of a method
IN_FLIGHT = 2  # calls a worker has waiting, so that it never idles between two
LEAVE_S = 3.0  # for calls under way when nobody wants their results any more


class Lost(RuntimeError):
    """Values that were with a worker are gone, as with their node: what they were made of has to be made again."""


class Restarted(RuntimeError):
    """The first worker died during a call, and is there again without what it knew."""


class Workers(Protocol):
    """Servers that give the same answers, on Ray actors or in this process.

    What a method makes for other workers alone stays with them: it returns (that, what the caller gets), and the caller
    has a reference to the first.
    """

    count: int

    def completed(self, method: str, calls: Sequence[Call], *, keep: bool = True) -> Iterator[tuple[int, Any]]:
        """Call `method` with each of `calls`, on any worker; yield index and result in the order in which they end.

        `keep`: the method returns such a pair, and the result is (reference, value); else it is the value. Arguments
        may be references.
        Raises: the error of a call that raised; Lost.
        """
        ...

    def put(self, value: Any) -> Any:
        """Give a value to the workers; returns a reference to it."""
        ...

    def get(self, references: Sequence[Any]) -> list[Any]:
        """Return the values of references. Raises: Lost."""
        ...

    def everywhere(self, method: str) -> None:
        """Call a method on every worker."""
        ...

    def first(self, method: str, *arguments: Any) -> Any:
        """Call a method on the first worker, which remembers; returns its value. Raises: Restarted."""
        ...

    def beside(self) -> int:
        """Count the workers on the machine of the first one, itself included: it may use their cores meanwhile."""
        ...


def in_order(results: Iterator[tuple[int, Any]]) -> list[Any]:
    """Return the results of `Workers.completed` in the order of the calls."""
    return [value for _, value in sorted(results, key=lambda result: result[0])]


class _Task(NamedTuple):
    """A call of one worker; nobody waits for it once `dropped` is set."""

    number: int
    method: str
    arguments: Call
    answers: "queue.SimpleQueue[_Answer]"
    dropped: threading.Event


class _Answer(NamedTuple):
    number: int
    worker: int
    value: Any
    error: BaseException | None


class LocalWorkers:
    """Servers in threads of this process, each with one of its own: torch and OpenMM release Python's lock.

    Threads are daemons: the interpreter would wait for others until their last call has ended, at Ctrl-C too.
    """

    def __init__(self, make: Callable[[], Any], count: int) -> None:
        self.count = count
        self._tasks: list[queue.SimpleQueue[_Task | None]] = [queue.SimpleQueue() for _ in range(count)]
        made: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, args=(index, make, made), daemon=True) for index in range(count)
        ]
        for thread in self._threads:
            thread.start()
        try:
            for _ in range(count):
                _value(made.get())
        except BaseException:
            self.close()
            raise

    def _serve(self, index: int, make: Callable[[], Any], made: "queue.SimpleQueue[_Answer]") -> None:
        """Make a server, and answer calls until told to end."""
        try:
            try:
                server = make()
            except BaseException as error:
                made.put(_Answer(0, index, None, error))
                return
            made.put(_Answer(0, index, None, None))
            while (task := self._tasks[index].get()) is not None:
                if task.dropped.is_set():
                    continue
                try:
                    answer = _Answer(task.number, index, getattr(server, task.method)(*task.arguments), None)
                except BaseException as error:
                    answer = _Answer(task.number, index, None, error)
                task.answers.put(answer)
        finally:
            release_core()

    def close(self) -> None:
        """End the threads; of one whose call takes longer, the process does not wait for the end."""
        for tasks in self._tasks:
            tasks.put(None)
        deadline = time.monotonic() + LEAVE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def completed(self, method: str, calls: Sequence[Call], *, keep: bool = True) -> Iterator[tuple[int, Any]]:
        """See `Workers`."""
        answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        dropped, load, begun = threading.Event(), [0] * self.count, 0
        try:
            for _ in range(len(calls)):
                while begun < len(calls) and min(load) < IN_FLIGHT:
                    worker = load.index(min(load))
                    self._tasks[worker].put(_Task(begun, method, calls[begun], answers, dropped))
                    load[worker] += 1
                    begun += 1
                answer = answers.get()
                load[answer.worker] -= 1
                yield answer.number, _value(answer)
        finally:
            dropped.set()

    def put(self, value: Any) -> Any:
        """See `Workers`."""
        return value

    def get(self, references: Sequence[Any]) -> list[Any]:
        """See `Workers`."""
        return list(references)

    def everywhere(self, method: str) -> None:
        """See `Workers`."""
        answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        for tasks in self._tasks:
            tasks.put(_Task(0, method, (), answers, threading.Event()))
        for _ in range(self.count):
            _value(answers.get())

    def first(self, method: str, *arguments: Any) -> Any:
        """See `Workers`."""
        answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        self._tasks[0].put(_Task(0, method, arguments, answers, threading.Event()))
        return _value(answers.get())

    def beside(self) -> int:
        """See `Workers`."""
        return self.count


def _value(answer: _Answer) -> Any:
    if answer.error is not None:
        raise answer.error
    return answer.value
