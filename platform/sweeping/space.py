"""Search space of a sweep: lists and ranges under the keys of a job, and settings drawn from them."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RANGE = re.compile(r"(?P<low>[^.\s][^\s]*?)\.\.(?P<high>[^.\s]\S*)")
Settings = dict[str, Any]  # dotted keys and values


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Choice of one of some values."""

    values: tuple[Any, ...]

    def at(self, u: float) -> Any:
        """Return the value at a fraction u ∈ [0, 1) of them."""
        return self.values[int(u * len(self.values))]


@dataclass(frozen=True, kw_only=True)
class Range:
    """Range of numbers, on a logarithmic scale unless it begins at 0 or below; whole where both ends are."""

    low: float
    high: float

    def at(self, u: float) -> float:
        """Return the number at a fraction u ∈ [0, 1) of the way, with three digits: people read and type it."""
        low, high = self.low, self.high
        value = low * (high / low) ** u if low > 0 else low + (high - low) * u
        if isinstance(low, int) and isinstance(high, int):
            return round(value)
        return min(max(float(f"{value:.3g}"), low), high)


def dimensions(space: Mapping[str, Any], prefix: str = "") -> dict[str, Choice | Range]:
    """Return the swept keys, dotted, of a nested mapping whose leaves are lists or LOW..HIGH; null sweeps nothing.

    Raises: ValueError that names the key.
    """
    found: dict[str, Choice | Range] = {}
    for name, value in space.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found |= dimensions(value, f"{key}.")
        elif isinstance(value, list | tuple):
            if not value:
                raise ValueError(f"space.{key} is empty: give values, or null to leave it alone")
            found[key] = Choice(values=tuple(value))
        elif value is not None:
            found[key] = _range(key, str(value))
    return found


def _range(key: str, text: str) -> Range:
    ends = RANGE.fullmatch(text)
    try:
        low, high = (_number(end) for end in ends.groups()) if ends else (0, 0)
    except ValueError:
        low = high = 0
    if not low < high:
        raise ValueError(f"space.{key}={text} is no space: give a list, or a range such as 1e-5..1e-3, LOW below HIGH")
    return Range(low=low, high=high)


def _number(text: str) -> float:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def sample_settings(space: Mapping[str, Choice | Range], samples: int, seed: int) -> list[Settings]:
    """Return `samples` settings, spread over each key's range (a Latin hypercube); 0: all combinations of lists.

    The values of one key do not depend on which other keys there are.
    Raises: ValueError for all combinations of a range.
    """
    if samples:
        columns = [[dimension.at(u) for u in _spread(samples, seed, key)] for key, dimension in space.items()]
        return [dict(zip(space, values, strict=True)) for values in (zip(*columns, strict=True) if columns else [()])]
    return list(_product(space))


def _spread(n: int, seed: int, key: str) -> Sequence[float]:
    source = np.random.default_rng([seed, *key.encode()])
    return [float(u) for u in (source.permutation(n) + source.random(n)) / n]


def _product(space: Mapping[str, Choice | Range]) -> Iterator[Settings]:
    lists = []
    for key, dimension in space.items():
        if isinstance(dimension, Range):
            raise ValueError(f"space.{key} is a range, which has no end of values: give a list, or samples=1 or more")
        lists.append(dimension.values)
    for values in itertools.product(*lists):
        yield dict(zip(space, values, strict=True))
