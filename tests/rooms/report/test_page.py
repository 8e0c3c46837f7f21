"""The report: its verdict, its numbers, degenerate inputs, and that the page needs nothing from elsewhere."""

import base64
import gzip
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reports import ENERGIES, FRAMES, GOLDEN, PEPTIDE, REFERENCE, STEPS, TRAINING, ensemble, report

from boltzray.molecules import OpenMMEnergy
from boltzray.report.contents import Reference, Report, number
from boltzray.report.figures import plot_report
from boltzray.report.page import DIAGNOSTICS, METRICS, write_report
from boltzray.report.verdict import Finding, headline, verdict


def level(findings: list[Finding], quantity: str) -> str:
    (found,) = [f.level for f in findings if f.quantity == quantity]
    return found


class Page(HTMLParser):
    """Cells of the two tables by (table, key), and everything the page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: dict[tuple[str, str], list[str]] = {}
        self.loads: list[str] = []
        self.tags: list[str] = []
        self._table = self._key = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        a = dict(attrs)
        self.tags.append(tag)
        self.loads += [str(a[k]) for k in ("src", "href", "srcset", "data", "poster", "action") if k in a]
        if tag == "table":
            self._table = str(a["id"])
        if tag == "tr":
            self._key = str(a.get("data-key", ""))
        if tag == "data":
            self.cells.setdefault((self._table, self._key), []).append(str(a["value"]))


def page(tmp_path: Path, made: Report) -> str:
    return write_report(tmp_path / "report.html", made).read_text(encoding="utf-8")


# --- verdict ------------------------------------------------------------------------------------


def test_equal_weights_on_the_reference_are_an_ensemble_to_use() -> None:
    good = ensemble(diagnostics={"ess": 1.0, "k_hat": 0.1})
    findings = verdict(report(good))
    assert {f.level for f in findings} == {"good"}
    assert headline(report(good), findings).text == "An ensemble to use."


@pytest.mark.parametrize(
    ("quantity", "diagnostics", "expected"),
    [
        ("ess", {"ess": 0.049}, "bad"),  # of 1000 draws: 49 effective
        ("ess", {"ess": 0.051}, "warn"),
        ("ess", {"ess": 0.201}, "good"),
        ("ess", {"ess": math.nan}, "bad"),
        ("k_hat", {"k_hat": 0.71}, "bad"),
        ("k_hat", {"k_hat": 0.69}, "warn"),  # 1 − 1/log₁₀(1000) = 0.667
        ("k_hat", {"k_hat": 0.65}, "good"),
        ("k_hat", {"k_hat": math.inf}, "bad"),
        ("k_hat", {"k_hat": math.nan}, "bad"),
        ("n_roots", {"n_roots": 49}, "bad"),
        ("n_roots", {"n_roots": 50}, "good"),
        ("max_weight_share", {"max_weight_share": 0.06}, "warn"),
        ("n_failed", {"n_failed": 11, "n_evaluations": 1000}, "warn"),
    ],
)
def test_thresholds(quantity: str, diagnostics: dict[str, float], expected: str) -> None:
    findings = verdict(report(ensemble(diagnostics=diagnostics)))
    assert level(findings, quantity) == expected
    assert findings[0].level == ("good" if expected == "good" else expected)


@pytest.mark.parametrize("diagnostics", [{}, {"k_hat": math.inf}])  # the second: files of older versions
def test_below_21_draws_there_is_no_k_hat_to_judge(diagnostics: dict[str, float]) -> None:
    few = {"chunks": [FRAMES[:30]], "energy_kT": ENERGIES[:30], "diagnostics": {"ess": 0.94, **diagnostics}}
    log_w = np.r_[np.zeros(20), np.full(10, -np.inf)]
    found = [f for f in verdict(report(ensemble(log_w, **few))) if f.quantity == "k_hat"]
    assert [f.level for f in found] == ["warn"]
    assert "too few draws for a diagnostic" in found[0].text
    assert "at least 21 with a weight are needed, here are 20" in found[0].text
    steps = {**few, "diagnostics": {"ess": 0.9, "n_roots": 20}}
    assert not [f for f in verdict(report(ensemble(log_w, **steps))) if f.quantity == "k_hat"]


def test_one_percent_and_five_percent_rule_for_many_draws() -> None:
    many = {"chunks": [np.tile(FRAMES, (10, 1, 1))], "energy_kT": np.tile(ENERGIES, 10)}
    few = ensemble(np.zeros(10_000), **many, diagnostics={"ess": 0.0099, "n_roots": 499})
    findings = verdict(report(few))
    assert (level(findings, "ess"), level(findings, "n_roots")) == ("bad", "bad")


def test_ess_is_computed_when_the_sampler_did_not_report_it() -> None:
    collapsed = np.full(len(FRAMES), -np.inf)
    collapsed[3] = -7.0
    assert level(verdict(report(ensemble(collapsed))), "ess") == "bad"
    weights = GOLDEN["log_weights"].astype(np.float64)
    expected = np.exp(weights).sum() ** 2 / np.exp(2 * weights).sum()
    assert ensemble(weights).effective_draws == pytest.approx(expected)


def test_draws_of_absurd_energy_are_bad_with_the_real_force_field() -> None:
    noise = np.random.default_rng(0).normal(scale=0.03, size=FRAMES[:200].shape)
    noisy = (FRAMES[:200] + noise).astype(np.float32)
    energy = OpenMMEnergy(PEPTIDE).evaluate(noisy, gradient=False).energy
    draws = ensemble(-energy, chunks=[noisy], energy_kT=energy)
    made = report(draws)
    findings = verdict(made)
    above = number(float(np.median(energy) - np.median(ENERGIES)))
    assert any(f.level == "bad" and f"{above} kT above" in f.text for f in findings)
    assert "only shows that the pipeline works" in headline(made, findings).text


def test_weighted_median_energy_beside_the_reference() -> None:
    spread = float(np.subtract(*np.quantile(ENERGIES, (0.75, 0.25))))
    assert level(verdict(report(ensemble(energy_kT=ENERGIES + 0.4 * spread))), "energy") == "good"
    assert level(verdict(report(ensemble(energy_kT=ENERGIES + 0.6 * spread))), "energy") == "warn"


def test_headline_names_what_can_be_used() -> None:
    good, bad = ensemble(), ensemble(name="SMC", diagnostics={"n_roots": 1}, steps=STEPS)
    made = report(good, bad)
    assert headline(made, verdict(made)).text == "Use SNIS. Do not use SMC."
    assert headline(report(bad), verdict(report(bad))).level == "bad"
    assert headline(report(), verdict(report())).level == "bad"


def test_unfinished_path_wrong_chirality_and_no_reference() -> None:
    unfinished = ensemble(steps=STEPS[:2], metrics={"chirality": 0.5})
    findings = verdict(report(unfinished, reference=None))
    assert level(findings, "lam") == "bad"
    assert level(findings, "chirality") == "warn"
    assert any("no reference MD" in f.text for f in findings)
    other = report(unfinished, reference=None, not_compared="data/AA.npz")
    texts = [f.text for f in verdict(other)]
    assert "The reference MD there is, data/AA.npz, is not compared: see the note on it." in texts
    assert not any("no reference MD" in text for text in texts)


def test_the_title_has_the_temperature(tmp_path: Path) -> None:
    page = write_report(tmp_path / "report.html", report(ensemble(), temperature_k=350.0)).read_text()
    assert f"<h1>Boltzmann ensemble of {PEPTIDE.sequence} at 350 K</h1>" in page
    assert f"<title>{PEPTIDE.sequence} at 350 K: " in page


# --- page ---------------------------------------------------------------------------------------


def test_every_number_in_the_tables_is_the_input(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    diagnostics = [{k: float(rng.lognormal()) for k in DIAGNOSTICS} for _ in range(2)]
    metrics = [{k: float(rng.lognormal()) for k in [*METRICS, "new_metric"]} for _ in range(2)]
    names = ("SNIS", "SMC")
    pairs = zip(names, diagnostics, metrics, strict=True)
    text = page(tmp_path, report(*(ensemble(name=n, diagnostics=d, metrics=m) for n, d, m in pairs)))
    cells = Page(text).cells
    for table, tables in (("diagnostics", diagnostics), ("metrics", metrics)):
        shown = {key: [float(v) for v in values] for (name, key), values in cells.items() if name == table}
        floor = REFERENCE.floor if table == "metrics" else {}
        known = {key: [tables[0][key], tables[1][key], *([floor[key]] if key in floor else [])] for key in tables[0]}
        assert shown == known
    assert f">{diagnostics[0]['log_z']:.3f}<" in text  # large, and known to hundredths
    assert f">{number(metrics[1]['energy_w2'])}<" in text


def test_bad_values_are_marked_by_word_and_intervals_shown(tmp_path: Path) -> None:
    metrics = {"torus_w2": 0.2, "torus_w2_low": 0.125, "torus_w2_high": 0.25}
    text = page(tmp_path, report(ensemble(diagnostics={"k_hat": math.inf, "ess": 0.5}, metrics=metrics)))
    assert re.search(r'<tr data-key="k_hat">.*?class="value bad">.*?>∞</data>.*?✕ bad</span>', text)
    assert "0.2 [0.12, 0.25]" in text
    assert 'data-key="torus_w2_low"' not in text
    assert '<data value="0.0625">0.0625</data>' in text  # the floor


@pytest.mark.parametrize(("share", "expected"), [(0.011, "warn"), (0.009, None)])
def test_overlaps_are_judged_against_the_reference(share: float, expected: str | None) -> None:
    found = [f.level for f in verdict(report(ensemble(metrics={"clashing": share}))) if f.quantity == "clashing"]
    assert found == ([expected] if expected else [])


def test_page_is_self_contained(tmp_path: Path) -> None:
    smc = ensemble(name="SMC", steps=STEPS)
    made = report(ensemble(), smc, training=TRAINING, provenance={"command": "a <b> & c"}, notes=["A note."])
    text = page(tmp_path, made)
    loads = Page(text).loads
    (table,) = [link for link in loads if link.startswith("data:text/csv")]
    loads.remove(table)
    assert len(loads) == len(plot_report(made)) == 10
    assert "basins,ψ(A1) α,share,SMC" in base64.b64decode(table.partition("base64,")[2]).decode()
    assert all(re.match(r"data:image/(svg\+xml|png);base64,", uri) for uri in loads)
    assert not {"link", "iframe", "object"} & set(Page(text).tags)
    assert not re.search(r"@import|url\(|https?:|file:", text)
    for uri in loads:
        image = base64.b64decode(uri.partition(",")[2])
        links = re.findall(rb'href="([^"]*)"', image)
        assert all(link.startswith((b"#", b"data:")) for link in links)
    assert "a &lt;b&gt; &amp; c" in text
    body = text[text.index("<body>") :]  # the headline is the title, too
    assert body.index(headline(made, verdict(made)).text) < body.index("<table")


def test_the_viewer_lies_in_the_page_and_shows_the_states(tmp_path: Path) -> None:
    text = page(tmp_path, report(ensemble()))
    data = json.loads(re.search(r'id="viewer-data">(.*?)</script>', text).group(1))  # type: ignore[union-attr]
    assert data["elements"] == [atom.element.symbol for atom in PEPTIDE.topology.atoms()]
    assert len(data["bonds"]) == PEPTIDE.topology.getNumBonds()
    for state in data["states"]:
        x = np.reshape(state["xyz"], (-1, 3))
        lengths = [np.linalg.norm(x[i] - x[j]) for i, j in data["bonds"]]
        assert 0.9 < min(lengths) < max(lengths) < 1.7  # Å
    packed = re.search(r'id="viewer-code">(.*?)</script>', text).group(1)  # type: ignore[union-attr]
    code = gzip.decompress(base64.b64decode(packed)).decode()
    assert "University of Pittsburgh" in code  # its licence goes with it
    assert "createViewer" in code
    assert len(text) < 1_500_000


def test_no_viewer_without_a_conformation_to_show(tmp_path: Path) -> None:
    text = page(tmp_path, report(ensemble(np.full(len(FRAMES), -np.inf))))
    assert 'id="viewer' not in text


def test_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = page(tmp_path, report(ensemble()))
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]

    def fail(*_: Any) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Path, "replace", fail)  # all is written, under another name
    with pytest.raises(OSError, match="the disk is gone"):
        page(tmp_path, report(ensemble(name="other")))
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    assert page(tmp_path, report(ensemble())) == page(tmp_path, report(ensemble()))


# --- degenerate input ---------------------------------------------------------------------------


def _one_weight() -> dict[str, Any]:
    log_weights = np.full(len(FRAMES), -np.inf)
    log_weights[0] = -1e7
    return {"log_weights": log_weights}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("with_reference", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        _one_weight(),
        {"log_weights": np.full(len(FRAMES), -np.inf)},
        {"energy_kT": np.full(len(FRAMES), np.inf)},
        {"energy_kT": np.where(np.arange(len(FRAMES)) % 2, ENERGIES, np.inf)},
        {"energy_kT": np.full(len(FRAMES), 2.5)},
        _one_weight() | {"chunks": [np.where(np.arange(len(FRAMES))[:, None, None] > 0, np.nan, FRAMES)]},
        {"steps": [{"step": 1, "lam": 1.0, "acceptance": math.nan}], "diagnostics": {"seconds": math.nan}},
        {"steps": []},
    ],
    ids=["one weight", "no weight", "no energy", "half failed", "one energy", "NaN", "bare step", "no steps"],
)
def test_degenerate_ensembles(tmp_path: Path, changes: dict[str, Any], with_reference: bool) -> None:
    made = report(ensemble(**changes), reference=REFERENCE if with_reference else None, training=[])
    assert "<h1>" in page(tmp_path, made)
    assert verdict(made)


def test_one_draw(tmp_path: Path) -> None:
    one = ensemble(np.zeros(1), chunks=[FRAMES[:1]], energy_kT=ENERGIES[:1])
    assert "only shows that the pipeline works" in page(tmp_path, report(one, reference=None))


def test_no_ensemble(tmp_path: Path) -> None:
    assert "There is no ensemble" in page(tmp_path, report())
    assert "There is no ensemble" in page(tmp_path, report(reference=None))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="give one of each"):
        ensemble(np.zeros(3))
    with pytest.raises(ValueError, match="-inf"):
        ensemble(np.full(len(FRAMES), np.nan))
    with pytest.raises(ValueError, match="finite"):
        Reference(positions_nm=FRAMES, energy_kT=np.full(len(FRAMES), np.inf), source="")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.01234, "0.0123"),
        (1234, "1\u202f234"),
        (-2.1e7, "−2.1 × 10⁷"),
        (math.inf, "∞"),
        (math.nan, "unknown"),
        (0, "0"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text
