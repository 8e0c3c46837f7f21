"""Expressions of OpenMM's custom forces against those that the batched energy implements; numbers in its units."""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from openmm import unit

Tables = dict[str, npt.NDArray[np.generic]]

COULOMB = 138.93545764438198  # kJ nm / mol / e², OpenMM's value
_NUMBER = "[-+.0-9eE]+"


def plain(quantities: Sequence[unit.Quantity]) -> list[float]:
    """Numbers in OpenMM's units: nm, kJ/mol, rad, e."""
    return [q.value_in_unit_system(unit.md_unit_system) for q in quantities]


def numbers(templates: Sequence[str], expressions: Sequence[str]) -> dict[str, float] | None:
    """The numbers that stand at the {names}, and the constants assigned at the end; None if one does not match.

    A name that has one value here and another there does not match; of values that agree, the first is returned.
    """
    if len(templates) != len(expressions):
        return None
    found: dict[str, float] = {}
    for template, expression in zip(templates, expressions, strict=True):
        pattern = re.sub(r"\\\{(\w+)\\\}", rf"(?P<\1>{_NUMBER})", re.escape(template.replace(" ", "")))
        match = re.fullmatch(pattern + rf"((;\w+={_NUMBER})*);?", expression.replace(" ", ""))
        if match is None:
            return None
        constants = [c.split("=") for c in match.group(match.re.groups - 1).split(";") if c]
        pairs = [(name, float(value)) for name, value in constants + list(match.groupdict().items())]
        if any(not np.isclose(found.setdefault(name, value), value) for name, value in pairs):
            return None
    return found
