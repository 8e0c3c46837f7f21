"""Progress with an ETA: a bar on a terminal, a line now and then in a log."""

import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_EVERY_S = 10.0
QUICK_S = 2.0  # work done by then needs no line
RECENT = 0.5  # the part of the time so far whose speed the ETA is from: starts are slow

Update = Callable[[float, str], None]


COMMAND = "BOLTZRAY_COMMAND"  # in the environment of what `boltzray VERB` runs


def as_typed(text: str) -> str:
    """Write commands in a text as the user types them: `boltzray sample` where that is how this one was begun."""
    return re.sub(r"(?:python )?jobs/(\w+)\.py", r"boltzray \1", text) if COMMAND in os.environ else text


def say(text: str) -> None:
    """Print one line to the user; what the terminal cannot show becomes a question mark."""
    text = as_typed(text)
    try:
        print(text, flush=True)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding
        print(text.encode(encoding, "replace").decode(encoding), flush=True)


def duration(seconds: float) -> str:
    """Format seconds: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress(label: str, total: float, done: float = 0.0, *, starts_late: bool = False) -> Iterator[Update]:
    """Give `update(value, note)`. A resumed run starts from `done`, which does not count for the rate.

    `starts_late`: the time until the first update says nothing of the rate, as that of workers which start.
    """
    with _bar(label, total, done) if sys.stdout.isatty() else _lines(label, total, done, starts_late) as update:
        yield update


@contextmanager
def _bar(label: str, total: float, done: float) -> Iterator[Update]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(width=None)) as bar:
        task = bar.add_task(label, total=total, note="")
        bar.update(task, completed=done)

        def update(value: float, note: str) -> None:
            bar.update(task, completed=value, note=note)

        yield update


@contextmanager
def _lines(label: str, total: float, done: float, starts_late: bool = False) -> Iterator[Update]:
    started = time.monotonic()
    printed, last = -LOG_EVERY_S, done
    marks = deque([(0.0, done)])  # when which value was reached

    def update(value: float, note: str = "") -> None:
        nonlocal printed, last
        now = time.monotonic() - started
        if value == last or now < QUICK_S or (now - printed < LOG_EVERY_S and value < total):
            return
        if starts_late and last == done:
            marks.clear()
            marks.append((now, value))
        printed, last = now, value
        while len(marks) > 1 and marks[1][0] <= (1 - RECENT) * now:
            marks.popleft()
        rate = (value - marks[0][1]) / (now - marks[0][0]) if now > marks[0][0] else 0.0
        marks.append((now, value))
        eta = f"ETA {duration((total - value) / rate)}" if rate > 0 and value < total else ""
        say("  ".join(part for part in (f"{label} {100 * value / total:3.0f}%", eta, note) if part))

    yield update
