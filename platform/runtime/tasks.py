"""Many calls of one function, as Ray tasks with progress."""

from collections.abc import Callable, Sequence
from typing import Any

import ray

from .actor_pool import as_they_end, fetch
from .progress import progress


def in_tasks(label: str, work: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call `work` with each of `calls`, as Ray tasks; returns the results in order."""
    task = ray.remote(num_cpus=1, max_retries=3)(work)
    pending = {task.remote(*arguments): i for i, arguments in enumerate(calls)}
    found: dict[int, Any] = {}
    with progress(label, len(calls)) as update:
        for index, reference in as_they_end(pending):
            found[index] = fetch(reference)
            update(len(found), "")
    return [found[i] for i in range(len(calls))]
