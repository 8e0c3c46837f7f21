"""Mixing of ladders against closed forms of the walk."""

import math
from dataclasses import replace

import numpy as np
import pytest
from ladders import ladder

from boltzray.molecules.ladder_mixing import (
    ladder_time_ns,
    relaxation_ps,
    round_trips,
    rung_transitions,
    rungs,
    swap_rates,
)


def test_rungs_are_the_inverse_of_walkers() -> None:
    made = ladder((0.5, 0.5, 0.5), frames=50)
    path = rungs(made)
    assert path[0].tolist() == [0, 1, 2, 3]
    for attempt, walkers in enumerate(made.walkers):
        assert path[attempt + 1][walkers].tolist() == [0, 1, 2, 3]


def test_swap_rates_are_those_of_the_walk() -> None:
    expected = (0.1, 0.4, 0.8)
    made = [ladder(expected, frames=4000, seed=seed) for seed in (0, 1)]
    margin = 4 * np.sqrt(np.multiply(expected, np.subtract(1, expected)) / 8000)
    assert (np.abs(swap_rates(made) - expected) < margin).all()
    assert swap_rates([ladder((1.0, 1.0), 5)]).tolist() == [1.0, 1.0]
    assert swap_rates([ladder((0.0, 0.0), 5)]).tolist() == [0.0, 0.0]
    (first, second) = swap_rates([ladder((1.0, 1.0), 1, per_frame=1)])
    assert (first, math.isnan(second)) == (1.0, True)  # odd pairs have had no turn


def test_ladders_are_counted_by_their_attempts() -> None:
    short, long = ladder((1.0,), frames=1), ladder((0.0,), frames=3)
    assert swap_rates([short, long]).tolist() == [0.25]
    assert ladder_time_ns([short, long]) == pytest.approx(0.004)


def test_transitions_are_the_product_of_the_two_kinds_of_attempt() -> None:
    a, b = 0.3, 0.6
    even = np.array([[1 - a, a, 0], [a, 1 - a, 0], [0, 0, 1]])
    odd = np.array([[1, 0, 0], [0, 1 - b, b], [0, b, 1 - b]])
    matrix = rung_transitions([ladder((a, b), frames=10_000)])
    np.testing.assert_allclose(matrix, even @ odd, atol=0.02)
    np.testing.assert_allclose(matrix.sum(axis=0), 1.0)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0)


def test_relaxation_of_two_rungs() -> None:
    made = ladder((0.1,), frames=20_000, interval_ps=0.5)  # λ₂ = 1 − 2 p
    assert relaxation_ps([made]) == pytest.approx(-0.5 / math.log(0.8), rel=0.1)
    assert relaxation_ps([ladder((0.0, 0.5), frames=100)]) == math.inf
    assert relaxation_ps([ladder((1.0,), frames=100)]) == 0.0  # to and fro: no walk that slows down


def test_every_swap_accepted_is_a_conveyor_belt() -> None:
    """With attempts of alternating parity each walker needs 2 R of them for a round trip."""
    size, turns = 4, 25
    made = ladder((1.0,) * (size - 1), frames=turns * size)  # 2 R turns attempts
    trips = round_trips([made])
    assert trips[-1] in range(size * (turns - 1), size * turns + 1)
    assert trips.tolist() == sorted(trips, reverse=True)
    assert round_trips([made, made]).tolist() == (2 * trips).tolist()


def test_round_trips_by_hand() -> None:
    walkers = np.array([[1, 0, 2], [1, 2, 0], [2, 1, 0], [2, 0, 1], [0, 2, 1], [0, 1, 2]], dtype=np.uint8)
    made = replace(ladder((0.5, 0.5), frames=3), walkers=walkers)
    # Walker 0 is on rungs 0 1 2 2 1 0 0, walker 1 on 1 0 0 1 2 2 1, walker 2 on 2 2 1 0 0 1 2.
    assert rungs(made).T.tolist() == [[0, 1, 2, 2, 1, 0, 0], [1, 0, 0, 1, 2, 2, 1], [2, 2, 1, 0, 0, 1, 2]]
    assert round_trips([made]).tolist() == [1, 1]
    assert round_trips([ladder((0.0, 0.5), frames=50)]).tolist() == [0, 0]


def test_ladders_of_other_temperatures_are_refused() -> None:
    with pytest.raises(ValueError, match="2 sets of temperatures"):
        swap_rates([ladder((0.5,), 2), ladder((0.5, 0.5), 2)])
    with pytest.raises(ValueError, match="0 sets"):
        round_trips([])
