"""A batch in parts of fixed size on several threads: bits depend on the parts, not on how many threads there are.

Threads of torch's own share each operation, which pays for large ones alone, and change the order of sums. Shapes: B
rows in all.
"""

import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import torch
from torch import Tensor

ROWS = 64  # of a part: of fewer more time goes into starting operations, of more fewer threads find one

T = TypeVar("T")
_Task = tuple[Future[Any], Callable[[], Any], bool]


class Parts:
    """Threads that compute parts of a batch, each on one core.

    They are daemons, unlike those of an executor, which the interpreter would wait for at Ctrl-C.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        if threads > 1:
            for _ in range(threads):
                Thread(target=_work, args=(self._tasks,), daemon=True).start()
            weakref.finalize(self, _end, self._tasks, threads)

    def map(self, function: Callable[..., T], *arguments: Sequence[Any]) -> list[T]:
        """Call `function` with the first of all arguments, the second, and so on; in their order.

        Like the caller's, gradients are on or off.
        """
        if self.threads == 1:
            return list(map(function, *arguments))
        enabled = torch.is_grad_enabled()  # each thread has its own
        made = [(Future[T](), partial(function, *of_part), enabled) for of_part in zip(*arguments, strict=True)]
        for task in made:
            self._tasks.put(task)
        return [future.result() for future, _, _ in made]

    def rows(self, function: Callable[..., T], *batch: Tensor) -> list[T]:
        """Call `function` with the rows of each part of tensors (B, …)."""
        return self.map(function, *(tensor.split(ROWS) for tensor in batch))

    def differentiable(self, function: Callable[..., Tensor], parameters: Sequence[Tensor], *batch: Tensor) -> Tensor:
        """`function` of each part's rows, concatenated, with gradients to `parameters` alone."""
        if not torch.is_grad_enabled():
            return torch.cat(self.rows(function, *batch))
        result: Tensor = _InParts.apply(self, function, batch, *parameters)
        return result


def _work(tasks: "SimpleQueue[_Task | None]") -> None:
    torch.set_num_threads(1)
    while (task := tasks.get()) is not None:
        future, call, enabled = task
        try:
            with torch.set_grad_enabled(enabled):
                future.set_result(call())
        except BaseException as error:
            future.set_exception(error)
        del task, future, call  # or the last part's graph would live until the next


def _end(tasks: "SimpleQueue[_Task | None]", threads: int) -> None:
    for _ in range(threads):
        tasks.put(None)


class _InParts(torch.autograd.Function):
    """The backward pass of each part is its own, too, and their gradients are added in the order of the parts."""

    @staticmethod
    def forward(
        ctx: Any, parts: Parts, function: Callable[..., Tensor], batch: Sequence[Tensor], *parameters: Tensor
    ) -> Tensor:
        with torch.enable_grad():
            ctx.made = parts.rows(function, *batch)
        ctx.parts, ctx.parameters = parts, parameters
        return torch.cat([made.detach() for made in ctx.made])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        def back(made: Tensor, gradient: Tensor) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(made, ctx.parameters, gradient, allow_unused=True)

        found = ctx.parts.map(back, ctx.made, gradients[0].split([len(made) for made in ctx.made]))
        total = list(found[0])
        for more in found[1:]:
            for k, gradient in enumerate(more):
                if gradient is not None:
                    kept = total[k]
                    total[k] = gradient if kept is None else kept + gradient  # not in place: autograd may share them
        return None, None, None, *total
