"""Style of all figures, and their form in a page.

Plotted without pyplot, so that any thread or actor may do it. Energies in kT, angles in degrees.
"""

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from itertools import cycle
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Floats = NDArray[np.float64]
P = ParamSpec("P")
T = TypeVar("T")

WIDTH_IN = 5.6  # a phone shows this at two thirds: ten-point type stays readable
MAX_FREE_ENERGY_KT = 7.0
MAX_SVG_BYTES = 200_000
# Okabe & Ito, and black: told apart by colour-blind readers.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "osD^vP*"
REFERENCE_COLOUR = "#8a8a8a"
STYLE: Any = {  # matplotlib types the keys one by one
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "boltzray",  # equal data, equal bytes
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with the words around it."""

    name: str
    section: str
    caption: str
    figure: Figure

    def png(self) -> bytes:
        """Return PNG bytes, for MLflow, and for the page where the SVG is too large."""
        return self._saved("png", dpi=200)

    def data_uri(self) -> str:
        """Return the figure as text that a page can hold: SVG, or PNG if that is large."""
        svg = self._saved("svg", metadata={"Date": None})
        kind, data = ("svg+xml", svg) if len(svg) <= MAX_SVG_BYTES else ("png", self.png())
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

    def _saved(self, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(buffer, format=kind, **options)
        self.figure.set_layout_engine("none")  # what was laid out stays: half of the time of the next form
        return buffer.getvalue()


def styled(make: Callable[P, T]) -> Callable[P, T]:
    """Wrap a function that plots, so that it does so in our style."""

    @wraps(make)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with matplotlib.rc_context(STYLE):
            return make(*args, **kwargs)

    return wrapped


def stacked(rows: int, height_in: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of plots above each other on one x axis."""
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    return figure, list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])


def time_axis(longest_ps: float) -> tuple[float, str]:
    """Return the unit of a time axis in ps, and its label: ns from 1 ns on."""
    return (1000.0, "ns") if longest_ps >= 1000 else (1.0, "ps")


def colours() -> Iterator[str]:
    """Colours of ensembles in order, again from the start when there are more."""
    return cycle(COLOURS)


def finite(values: Floats) -> Floats:
    """Values that are finite."""
    return values[np.isfinite(values)]
