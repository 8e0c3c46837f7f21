"""Distribute calls over actors; resubmit the calls of an actor that died."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from .telemetry import count, set_gauge
from .workers import IN_FLIGHT, Call, Lost, Restarted

T = TypeVar("T")

MAX_TRIES = 5  # of one call; an input that kills its actor every time must end the run with its name


def fetch(reference: Any) -> Any:
    """Get the value of a reference; raises the task's own error, not wrapped in its remote traceback."""
    try:
        return ray.get(reference)
    except RayActorError:
        raise
    except RayTaskError as error:
        raise error.cause or error from error


def as_they_end(tasks: Mapping[Any, T]) -> Iterator[tuple[T, Any]]:
    """Yield value and key of each item of `tasks`, whose keys are references, in the order in which they end."""
    running = list(tasks)
    while running:
        done, running = ray.wait(running, num_returns=1)
        yield from ((tasks[reference], reference) for reference in done)


def run_on(
    actors: Sequence[Any],
    calls: Sequence[Callable[[Any], Any]],
    on_done: Callable[[int], None] | None = None,
) -> list[Any]:
    """Give each of `calls` to some actor; returns their results, in the order of `calls`.

    A call takes an actor and returns a reference, or a list of them, of which the last is waited for and replaced by
    its value. Actors restart by themselves (`max_restarts`); a call lost with one is made again, on any. `on_done` is
    called with the number of results so far.
    Raises: the error of a call that raised; RuntimeError when a call killed its actor `MAX_TRIES` times.
    """
    results: dict[int, Any] = {}
    for done, (index, references) in enumerate(completed(actors, calls), start=1):
        results[index] = references
        if on_done:
            on_done(done)
    return [results[index] for index in range(len(calls))]


def completed(actors: Sequence[Any], calls: Sequence[Callable[[Any], Any]]) -> Iterator[tuple[int, Any]]:
    """Yield the index and the result of each call, in the order in which they end; see `run_on`."""
    waiting = deque(range(len(calls)))
    tries = [0] * len(calls)
    load = [0] * len(actors)
    running: dict[Any, tuple[int, int, int, Any]] = {}
    restarting: dict[Any, int] = {}
    while waiting or running:
        while waiting:
            index = waiting[0]
            # A lost call gets an actor to itself. An actor that dies takes all its calls along, one of which may have
            # killed it: alone, that one uses up its own tries, and never those of its neighbours.
            weight = IN_FLIGHT if tries[index] else 1
            actor = load.index(min(load))
            if load[actor] + weight > IN_FLIGHT:
                break
            waiting.popleft()
            references = calls[index](actors[actor])
            last = references[-1] if isinstance(references, list) else references
            running[last] = (index, actor, weight, references)
            load[actor] += weight
            tries[index] += 1
        set_gauge("boltzray_queue_depth", len(waiting) + len(running))
        for reference in ray.wait([*running, *restarting], num_returns=1)[0]:
            if reference in restarting:
                fetch(reference)
                load[restarting.pop(reference)] -= IN_FLIGHT
                continue
            index, actor, weight, references = running.pop(reference)
            load[actor] -= weight
            try:
                value = fetch(reference)
            except RayActorError as error:
                count("boltzray_failures", 1, "call")
                if tries[index] >= MAX_TRIES:
                    raise RuntimeError(f"part {index} of the work ended {MAX_TRIES} actors: {error}") from error
                waiting.appendleft(index)
                # A dead actor counts as full until its restart is confirmed by `__ray_ready__`, which Ray repeats: one
                # whose node is gone may never find another place, and its calls would wait while the others idle.
                if actor not in restarting.values():
                    restarting[actors[actor].__ray_ready__.options(max_task_retries=-1).remote()] = actor
                    load[actor] += IN_FLIGHT
                continue
            yield index, ([*references[:-1], value] if isinstance(references, list) else value)
    set_gauge("boltzray_queue_depth", 0)


class RayWorkers:
    """Servers as actors, which restart by themselves; what they keep lies in the object store. See `Workers`."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self.actors, self.count = actors, len(actors)

    def completed(self, method: str, calls: Sequence[Call], *, keep: bool = True) -> Iterator[tuple[int, Any]]:
        """See `Workers`."""

        def call(arguments: Call, actor: Any) -> Any:
            if not keep:
                return getattr(actor, method).remote(*arguments)
            return list(getattr(actor, method).options(num_returns=2).remote(*arguments))

        with _saying_what_is_lost():
            yield from completed(self.actors, [partial(call, arguments) for arguments in calls])

    def put(self, value: Any) -> Any:
        """See `Workers`."""
        return ray.put(value)

    def get(self, references: Sequence[Any]) -> list[Any]:
        """See `Workers`."""
        with _saying_what_is_lost():
            return list(ray.get(list(references)))

    def everywhere(self, method: str) -> None:
        """See `Workers`."""
        for reference in [getattr(actor, method).options(max_task_retries=-1).remote() for actor in self.actors]:
            fetch(reference)

    def first(self, method: str, *arguments: Any) -> Any:
        """See `Workers`."""
        try:
            return fetch(getattr(self.actors[0], method).remote(*arguments))
        except RayActorError as error:
            ray.get(self.actors[0].__ray_ready__.options(max_task_retries=-1).remote())
            raise Restarted(str(error)) from error

    def beside(self) -> int:
        """See `Workers`."""
        nodes = ray.get([actor.__ray_call__.options(max_task_retries=-1).remote(_node) for actor in self.actors])
        return int(nodes.count(nodes[0]))


def _node(_: Any) -> str:
    return ray.get_runtime_context().get_node_id()


@contextmanager
def _saying_what_is_lost() -> Iterator[None]:
    try:
        yield
    except ObjectLostError as error:
        raise Lost(str(error)) from error
