"""Work on actors: in order, complete, and done again when an actor dies."""

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from boltzray.runtime.actor_pool import run_on

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Worker:
    """Squares numbers; dies once, or always, at those it is told to."""

    def __init__(self, marker: str = "") -> None:
        self.marker = marker

    def pid(self) -> int:
        return os.getpid()

    def square(self, i: int, delay: float = 0.0) -> int:
        time.sleep(delay)
        return i * i

    def die_once(self, i: int) -> int:
        path = Path(self.marker) / str(i)
        if i % 5 == 2 and not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return i * i

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fail(self) -> None:
        raise ValueError("this input is wrong")


def start(n: int, *arguments: Any, retries: int = 0) -> list[Any]:
    kind = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=retries)(Worker)
    return [kind.remote(*arguments) for _ in range(n)]


def call(method: str, *arguments: Any) -> Any:
    return lambda actor: getattr(actor, method).remote(*arguments)


def test_results_come_in_order_whatever_finishes_first() -> None:
    done: list[int] = []
    calls = [call("square", i, 0.2 if i == 0 else 0.0) for i in range(12)]
    assert run_on(start(3), calls, done.append) == [i * i for i in range(12)]
    assert done == list(range(1, 13))


@pytest.mark.parametrize("retries", [0, 5])
def test_a_killed_actor_loses_nothing(tmp_path: Path, retries: int) -> None:
    calls = [call("die_once", i) for i in range(20)]
    assert run_on(start(2, str(tmp_path), retries=retries), calls) == [i * i for i in range(20)]
    assert len(list(tmp_path.iterdir())) == 4


def test_an_actor_killed_from_outside_loses_nothing() -> None:
    actors = start(2)
    pids = ray.get([actor.pid.remote() for actor in actors])

    def kill(done: int) -> None:
        if done == 3:
            os.kill(pids[0], signal.SIGKILL)

    calls = [call("square", i, 0.05) for i in range(30)]
    assert run_on(actors, calls, kill) == [i * i for i in range(30)]


def test_an_input_that_kills_its_actor_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boltzray.runtime.actor_pool.MAX_TRIES", 2)  # each takes a new process
    with pytest.raises(RuntimeError, match="part 1 of the work ended 2 actors"):
        run_on(start(1), [call("square", 1), partial(lambda actor: actor.die.remote())])


def test_an_error_is_itself() -> None:
    with pytest.raises(ValueError, match="this input is wrong"):
        run_on(start(1), [call("fail")])
