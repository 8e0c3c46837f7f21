"""States in the verdict: missing, extra, differing ones, and a reference that has not converged."""

import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from reports import FRAMES, PEPTIDE, REFERENCE, ensemble, report

from boltzray.evaluation.result import EvaluationResult
from boltzray.molecules.convergence import StateEstimate
from boltzray.molecules.torsion_states import occupied, states_of
from boltzray.report.contents import Finding, Reference, Report
from boltzray.report.page import write_report
from boltzray.report.verdict import headline, verdict

STATES = [state.label for state in states_of(PEPTIDE)]
INSIDE = occupied(states_of(PEPTIDE), FRAMES)
ALPHA, BETA, CIS, LEFT = STATES  # of AA
SHARES = dict(zip(STATES, INSIDE.mean(axis=0).tolist(), strict=True))
GOOD = {"diagnostics": {"ess": 1.0, "k_hat": 0.1}}


def estimate(label: str, share: float, error: float = 0.003, **changes: Any) -> StateEstimate:
    bounds = {"low": max(share - 2 * error, 0.0), "high": share + 2 * error}
    mixed = {"r_hat": 1.0 if 0 < share < 1 else math.nan, "effective_frames": 900.0 if 0 < share < 1 else 0.0}
    return StateEstimate(label=label, share=share, error=error, visits=9, **bounds | mixed | changes)


def reference(converged: bool | None = None, reasons: tuple[str, ...] = (), **shares: StateEstimate) -> Reference:
    """A reference with the shares of the frames, some of them changed."""
    states = [shares.get(name, estimate(label, SHARES[label])) for name, label in zip("ABCL", STATES, strict=True)]
    record: Any = None if converged is None else SimpleNamespace(converged=converged, reasons=reasons)
    return replace(REFERENCE, states=states, record=record)


def of_states(made: Report) -> list[Finding]:
    return [f for f in verdict(made) if f.quantity in (*STATES, "states", "reference")]


def test_the_frames_have_the_states_that_these_tests_need() -> None:
    assert 0.05 < SHARES[ALPHA] < 0.5
    assert SHARES[LEFT] == SHARES[CIS] == 0


def test_an_ensemble_like_the_reference_has_no_finding() -> None:
    made = report(ensemble(**GOOD), reference=reference(converged=True))
    assert not of_states(made)
    assert headline(made, verdict(made)).level == "good"
    assert not of_states(report(ensemble(**GOOD)))
    assert not of_states(report(ensemble(**GOOD), reference=None))


@pytest.mark.parametrize(("share", "level"), [(0.021, "bad"), (0.019, "warn"), (0.2, "bad")])
def test_a_missing_state_is_named_with_its_share(share: float, level: str) -> None:
    made = report(ensemble(**GOOD), reference=reference(L=estimate(LEFT, share)))
    (found,) = of_states(made)
    assert (found.level, found.quantity, found.ensemble) == (level, LEFT, "SNIS")
    assert re.fullmatch(
        r"SNIS: φ\(A2\) 0…120°: [\d.]+ ± 0\.3\u00a0% in the reference, 0 of 1\u202f000 draws \(weighted 0\u00a0%\)\.",
        found.text,
    )
    assert headline(made, verdict(made)).level == level


@pytest.mark.parametrize(
    ("state", "effective"),
    [
        (estimate(LEFT, 0.02, 0.02), 1.0),  # of one run alone
        (estimate(LEFT, 0.02), 0.2),  # 4 expected
    ],
)
def test_a_state_that_cannot_be_known_to_be_missing_is_not_called_so(state: StateEstimate, effective: float) -> None:
    made = report(ensemble(diagnostics={"ess": effective, "k_hat": 0.1}), reference=reference(L=state))
    assert not of_states(made)


def test_ancestors_count_where_particles_are_copies() -> None:
    few = ensemble(diagnostics={"ess": 0.9, "n_roots": 60})
    assert not of_states(report(few, reference=reference(L=estimate(LEFT, 0.05))))
    assert of_states(report(few, reference=reference(L=estimate(LEFT, 0.1))))


def test_a_state_that_the_weights_take_away_is_missing() -> None:
    log_w = np.where(INSIDE[:, 0], -30.0, 0.0)
    (found,) = of_states(report(ensemble(log_w), reference=reference()))
    draws = int(INSIDE[:, 0].sum())
    assert (found.level, found.quantity) == ("bad", ALPHA)
    assert f"{draws} of 1\u202f000 draws (weighted" in found.text
    log_w = np.where(INSIDE[:, 0], -math.inf, 0.0)
    (found,) = of_states(report(ensemble(log_w), reference=reference()))
    assert "(weighted 0\u00a0%)" in found.text


def test_an_uncertain_reference_is_not_missed() -> None:
    """Over 5 σ, unless nothing is there at all."""
    log_w = np.where(INSIDE[:, 0], -3.0, 0.0)
    share = SHARES[ALPHA] * math.exp(-3) / (SHARES[ALPHA] * math.exp(-3) + SHARES[BETA])
    certain = estimate(ALPHA, SHARES[ALPHA], (SHARES[ALPHA] - share) / 8)
    vague = estimate(ALPHA, SHARES[ALPHA], (SHARES[ALPHA] - share) / 4)
    assert [f.quantity for f in of_states(report(ensemble(log_w), reference=reference(A=certain)))] == [ALPHA]
    assert ALPHA not in [f.quantity for f in of_states(report(ensemble(log_w), reference=reference(A=vague)))]


@pytest.mark.parametrize(("converged", "level"), [(None, "warn"), (False, "warn"), (True, "bad")])
def test_an_extra_state_counts_against_the_ensemble_where_the_reference_has_converged(
    converged: bool | None, level: str
) -> None:
    never = estimate(ALPHA, 0.0, 0.0, high=0.003)
    made = report(ensemble(**GOOD), reference=reference(converged, A=never, B=estimate(BETA, 1.0, 0.0)))
    (found,) = of_states(made)
    assert (found.level, found.quantity) == (level, ALPHA)
    assert found.text.endswith("draws), 0\u00a0% in the reference.")
    unknown = estimate(ALPHA, 0.0, 0.0, high=0.5)
    assert ALPHA not in [f.quantity for f in of_states(report(ensemble(**GOOD), reference=reference(A=unknown)))]


def test_shares_that_differ_are_said_once_for_a_torsion() -> None:
    shares = {"A": estimate(ALPHA, SHARES[ALPHA] + 0.1, 0.01), "B": estimate(BETA, SHARES[BETA] - 0.1, 0.01)}
    (found,) = of_states(report(ensemble(**GOOD), reference=reference(**shares)))
    assert (found.level, found.quantity) == ("warn", "states")
    assert len(re.findall("ψ", found.text)) == 1
    vague = {"A": estimate(ALPHA, SHARES[ALPHA] + 0.1, 0.03), "B": estimate(BETA, SHARES[BETA] - 0.1, 0.03)}
    assert not of_states(report(ensemble(**GOOD), reference=reference(**vague)))
    near = {"A": estimate(ALPHA, SHARES[ALPHA] + 0.025, 0.0), "B": estimate(BETA, SHARES[BETA] - 0.025, 0.0)}
    assert not of_states(report(ensemble(**GOOD), reference=reference(**near)))


def test_a_reference_that_has_not_converged_is_called_that() -> None:
    why = ("2 independent runs, at least 4 are needed", "R̂ above 1.05 (X: 1.3)")
    (found,) = of_states(report(ensemble(**GOOD), reference=reference(converged=False, reasons=why)))
    assert (found.level, found.text) == ("warn", f"The reference has not converged: {why[0]}; {why[1]}.")
    apart = reference(A=estimate(ALPHA, SHARES[ALPHA], r_hat=math.inf))
    (found,) = of_states(report(ensemble(**GOOD), reference=apart))
    assert found.text == f"The reference has not converged: R̂ above 1.05 ({ALPHA}: ∞)."


def test_mirror_images_are_mirrored_back_before_they_are_counted() -> None:
    mirrored = ensemble(chunks=[FRAMES * np.float32([-1, 1, 1])], **GOOD)
    assert not of_states(report(mirrored, reference=reference(converged=True)))


def test_draws_that_failed_count_nowhere() -> None:
    frames, log_w = FRAMES.copy(), np.zeros(len(FRAMES))
    frames[::3], log_w[::3] = np.nan, -np.inf
    made = report(ensemble(log_w, chunks=[frames]), reference=reference())
    (share,) = made.states[0].shares
    kept = np.arange(len(FRAMES)) % 3 > 0
    assert share.share == pytest.approx(INSIDE[kept, 0].mean())
    assert share.draws == INSIDE[kept, 0].sum()
    nothing = report(ensemble(np.full(len(FRAMES), -np.inf)), reference=reference())
    assert not of_states(nothing)


def test_weighted_errors_are_those_of_the_ratio_estimator() -> None:
    """Weights of 4 on a state and 1 elsewhere, in closed form; or binomial of the effective draws, if that is more."""
    log_w = np.where(INSIDE[:, 0], math.log(4.0), 0.0)
    made = report(ensemble(log_w), reference=reference())
    share = made.states[0].shares[0]
    p = SHARES[ALPHA]
    q = 4 * p / (4 * p + 1 - p)
    expected = math.sqrt((p * 16 * (1 - q) ** 2 + (1 - p) * q**2) / (4 * p + 1 - p) ** 2 / len(FRAMES))
    assert share.share == pytest.approx(q)
    assert share.error == pytest.approx(max(expected, math.sqrt(q * (1 - q) / share.effective)))
    few = report(ensemble(log_w, diagnostics={"ess": 0.01}), reference=reference()).states[0].shares[0]
    assert share.error < few.error == pytest.approx(math.sqrt(q * (1 - q) / 10))


def test_the_page_and_the_file_have_the_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = report(ensemble(**GOOD), reference=reference(L=estimate(LEFT, 0.03)))
    text = write_report(tmp_path / "report.html", made, pictures=[]).read_text(encoding="utf-8")
    table = text[text.index('<table id="states"') :].partition("</table>")[0]
    assert re.findall('data-key="(.*?)"', table) == [ALPHA, BETA, LEFT], "nothing is cis"
    assert "1 states that nothing visits" not in text
    assert "1 state that nothing visits is left out" in text
    assert '<td class="value bad"><data value="0.0">0 ± 0\u00a0%</data>' in table
    assert "3 ± 0.3\u00a0%" in table
    result = EvaluationResult.of(made, "key")
    result.write(tmp_path)
    found = EvaluationResult.read(tmp_path)
    assert found is not None
    left = {state["label"]: state for state in found.states}[LEFT]
    assert (left["share"], left["samplers"]["SNIS"]["share"]) == (0.03, 0.0)
    assert left["samplers"]["SNIS"]["difference"] == "missing"
    assert any(LEFT in text for _, text in found.verdict)
