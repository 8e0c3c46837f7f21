"""An ensemble: its weights, its conformations chunk by chunk, and input that is refused."""

from typing import Any

import numpy as np
import pytest

from boltzray.molecules.ensemble import Ensemble

X = np.arange(5 * 2 * 3, dtype=np.float32).reshape(5, 2, 3)


def ensemble(**changes: Any) -> Ensemble:
    return Ensemble(
        **({"name": "SMC", "chunks": [X[:2], X[2:]], "log_weights": np.zeros(5), "energy_kT": np.ones(5)} | changes)
    )


def test_conformations_of_all_chunks_in_order() -> None:
    assert np.array_equal(ensemble().positions_nm, X)
    assert ensemble(chunks=[X]).positions_nm is X  # one chunk is not copied


def test_weights_and_effective_draws() -> None:
    log_w = np.log([1.0, 1.0, 2.0, 4.0, 8.0]) - 1e4
    log_w[0] = -np.inf
    made = ensemble(log_weights=log_w)
    np.testing.assert_allclose(made.weights, np.array([0, 1, 2, 4, 8]) / 15)
    assert made.effective_draws == pytest.approx(15**2 / 85)
    assert ensemble(log_weights=log_w, diagnostics={"ess": 0.1}).effective_draws == pytest.approx(0.5)
    none = ensemble(log_weights=np.full(5, -np.inf))
    assert (none.weights.sum(), none.effective_draws) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_weights": np.zeros(4)}, r"SMC: .*\(4,\), \(5,\): give one of each"),
        ({"log_q": np.zeros((5, 1))}, r"\(5,\), \(5,\), \(5, 1\): give one of each"),
        ({"log_weights": np.zeros(0), "energy_kT": np.zeros(0)}, "at least one"),
        ({"log_weights": np.array([0, 0, 0, 0, np.nan])}, "give failed conformations -inf"),
        ({"log_weights": np.array([0, 0, 0, 0, np.inf])}, "give failed conformations -inf"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ensemble(**changes)


def test_conformations_are_counted_when_they_are_read() -> None:
    made = ensemble(chunks=iter([X[:2], X[2:4]]))
    with pytest.raises(ValueError, match="SMC: 4 conformations with 5 log-weights"):
        _ = made.positions_nm
