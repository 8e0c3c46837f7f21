"""Roles of runs: kept, and given to new ones."""

import pytest

from boltzray.data.sources import HELD_OUT, Run
from boltzray.simulation.roles import divide_runs

OWN = ["AA_310_1_2", "AA_310_1_2_r1", "AA_310_1_2_r2", "AA_310_1_2_r3"]


def held(own: list[str], known: dict[str, str], hold_out: int) -> list[str]:
    roles = divide_runs(own, {name: Run("AA", role) for name, role in known.items()}, hold_out)
    assert set(roles.values()) <= {"train", HELD_OUT}
    assert list(roles)[-len(own) :] == own or known
    return sorted(name for name, role in roles.items() if role == HELD_OUT)


@pytest.mark.parametrize("hold_out", range(5))
def test_the_last_new_ones_are_held_out(hold_out: int) -> None:
    assert held(OWN, {}, hold_out) == OWN[4 - hold_out :]


def test_roles_are_kept_and_others_are_not_forgotten() -> None:
    known = {OWN[0]: "train", OWN[1]: HELD_OUT}
    assert held(OWN[:2], known, 0) == OWN[1:2]
    assert held(OWN, known, 1) == OWN[1:2], "added ones are trained on"
    assert held(OWN, known, 2) == [OWN[1], OWN[3]]
    assert held(OWN[:1], known, 1) == OWN[1:2], "one that the command leaves out"
    other = {"AA_310_0.5_2_r1": HELD_OUT, "AA_remd_310_1_2_r1": HELD_OUT, "AAA_310_1_2_r1": HELD_OUT}
    assert held(OWN[:1], other, 0) == [], "runs with other settings"
