"""Items made ahead of their use, in a thread."""

import threading
from collections.abc import Iterable, Iterator
from queue import Empty, Full, Queue
from typing import Any, TypeVar

T = TypeVar("T")
PREFETCHED = 2  # items that wait


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """Make the same items in a thread of their own, a few before they are asked for.

    The thread ends with the iterator, when that is closed or dropped. Raises: what `items` raises.
    """
    queue: Queue[tuple[bool, Any]] = Queue(PREFETCHED)
    closed = threading.Event()

    def give(item: tuple[bool, Any]) -> bool:
        while not closed.is_set():
            try:
                queue.put(item, timeout=0.5)
                return True
            except Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not give((True, item)):
                    return
            give((False, None))
        except BaseException as error:
            give((False, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            more, item = queue.get()
            if not more:
                if item is not None:
                    raise item
                return
            yield item
    finally:
        closed.set()
        try:
            while True:
                queue.get_nowait()
        except Empty:
            pass
