"""The page of a simulation: the numbers behind its plots and tables, of ladders of any size and of plain MD."""

import base64
import math
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ladders import ladder
from numpy.typing import NDArray
from reports import PEPTIDE

from boltzray.molecules.ladder_mixing import rung_transitions, rungs, swap_rates
from boltzray.report.figures_exchange import POINTS, energy_histograms, ladder_walk, overlap, swaps
from boltzray.report.figures_populations import PANELS, least_certain, populations, running_share
from boltzray.report.plotting import Picture
from boltzray.report.simulation_contents import SimulationReport
from boltzray.report.simulation_page import plot_simulation, write_simulation_page
from boltzray.report.verdict import Finding


@dataclass(frozen=True, kw_only=True)
class Estimate:
    label: str
    share: float
    error: float = 0.01
    low: float = 0.2
    high: float = 0.3
    r_hat: float = 1.01
    effective_frames: float = 250.0
    visits: int = 7


def occupation(frames: int, runs: int = 3) -> list[NDArray[np.bool_]]:
    """States α and its complement β, and one that is seen in every fourth frame."""
    rng = np.random.default_rng(0)
    alpha = rng.random((runs, frames)) < 0.3
    fourth = np.broadcast_to(np.arange(frames) % 4 == 3, alpha.shape)
    return list(np.stack([alpha, ~alpha, fourth], axis=2))


ESTIMATES = [
    Estimate(label="ψ(A1) α", share=0.3, low=0.2, high=0.4),
    Estimate(label="ψ(A1) β", share=0.7, low=0.6, high=0.8),
    Estimate(label="φ(A2) αL", share=0.25, r_hat=math.nan, visits=1200),
]


def simulation(frames: int = 40, size: int = 0, n_ladders: int = 2, **changes: Any) -> SimulationReport:
    ladders = [ladder((0.3,) * (size - 1), frames, seed) for seed in range(n_ladders)] if size else []
    fields = {
        "peptide": PEPTIDE,
        "headline": Finding(level="warn", text="Not converged: R̂ above 1.05."),
        "estimates": ESTIMATES,
        "occupied": occupation(frames, n_ladders if size else 3),
        "interval_ps": 1.0,
        "ladders": ladders,
    }
    return SimulationReport(**fields | changes)


class Tables(HTMLParser):
    """Values of all <data> by table and row, ids of images, and what they are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.values: dict[str, dict[str, list[float]]] = {}
        self.images: dict[str, str] = {}
        self._table = self._row = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        a = {key: str(value) for key, value in attrs}
        self._table = a["id"] if tag == "table" else self._table
        self._row = a.get("data-key", "") if tag == "tr" else self._row
        if tag == "data":
            self.values.setdefault(self._table, {}).setdefault(self._row, []).append(float(a["value"]))
        if tag == "img":
            self.images[a["id"]] = a["src"]


def lines(picture: Picture, panel: int) -> list[NDArray[Any]]:
    return [np.array(line.get_data()) for line in picture.figure.axes[panel].lines]


# --- numbers behind the plots -------------------------------------------------------------------


def test_the_walk_shows_each_attempt_of_its_walkers() -> None:
    made = ladder((0.3,) * 5, frames=30, per_frame=10, interval_ps=50.0)
    picture = ladder_walk(made)
    assert [axis.get_title() for axis in picture.figure.axes] == [f"walker {w}" for w in (0, 2, 3, 5)]
    for panel, walker in enumerate((0, 2, 3, 5)):
        ((time, rung),) = lines(picture, panel)
        np.testing.assert_allclose(time, np.arange(301) * 0.005)  # ns
        np.testing.assert_array_equal(rung, rungs(made)[:, walker])
    labels = [text.get_text() for text in picture.figure.axes[0].get_yticklabels()]
    assert labels == [f"{t:.0f} K" for t in made.temperatures_k]


def test_long_walks_are_thinned_and_say_so() -> None:
    made = ladder((0.3,), frames=2000)
    picture = ladder_walk(made, n_ladders=4)
    ((time, rung),) = lines(picture, 1)
    assert len(time) <= POINTS
    np.testing.assert_array_equal(rung, rungs(made)[::6, 1])
    assert "of the first of 4 ladders" in picture.caption
    assert "One in 6 attempts" in picture.caption


def test_swaps_show_transitions_and_rates() -> None:
    made = [ladder((0.2, 0.4), 500, seed) for seed in (0, 1)]
    left, right = swaps(made).figure.axes
    np.testing.assert_allclose(np.asarray(left.images[0].get_array()), rung_transitions(made))
    shown = np.array([int(text.get_text()) for text in left.texts]).reshape(3, 3)
    np.testing.assert_allclose(shown, 100 * rung_transitions(made), atol=0.51)
    np.testing.assert_allclose(np.asarray(right.lines[0].get_ydata()), swap_rates(made))
    assert "no time that could be seen" in swaps([ladder((0.0, 0.5), 20)]).caption


def test_overlap_of_normal_energies() -> None:
    """Two normal densities two deviations apart share 2 Φ(−1) = 31.7 %."""
    made = [ladder((0.3, 0.3), 20_000)]
    edges, densities = energy_histograms(made)
    np.testing.assert_allclose(densities @ np.diff(edges), 1.0)
    middles = (edges[1:] + edges[:-1]) / 2
    np.testing.assert_allclose(densities @ (middles * np.diff(edges)), (0, 2, 4), atol=0.05)
    found = re.search(r"overlap is ([\d.]+)\s%, of \d+ and \d+ K", overlap(made).caption)
    assert found
    assert float(found[1]) == pytest.approx(100 * math.erfc(1 / math.sqrt(2)), abs=1.5)


def test_energies_without_a_number_leave_the_others() -> None:
    made = ladder((0.3,), 20)
    made.energy_kT[3, 1] = np.inf
    edges, densities = energy_histograms([made])
    np.testing.assert_allclose(densities @ np.diff(edges), 1.0)
    made.energy_kT[:] = np.nan
    assert overlap([made]).png()


def test_running_shares_in_closed_form() -> None:
    points = np.arange(1, 7)
    runs = [np.array([1, 0, 0, 1, 1, 1]), np.array([0, 0, 1])]
    np.testing.assert_allclose(running_share(runs[:1], points), [1, 1 / 2, 1 / 3, 2 / 4, 3 / 5, 4 / 6])
    # The short run counts whole after its end.
    np.testing.assert_allclose(running_share(runs, points), [1 / 2, 1 / 4, 2 / 6, 3 / 7, 4 / 8, 5 / 9])


def test_populations_show_runs_all_together_and_the_estimate() -> None:
    made = simulation(frames=40)
    (picture,) = populations(made.estimates, made.occupied, 100.0)
    titles = [axis.get_title() for axis in picture.figure.axes]
    assert titles == ["ψ(A1) α", "φ(A2) αL"]  # β is the mirror image of α
    *runs, together, final = lines(picture, 0)
    for (time, share), run in zip(runs, made.occupied, strict=True):
        np.testing.assert_allclose(time, np.arange(1, 41) * 0.1)
        np.testing.assert_allclose(share, np.cumsum(run[:, 0]) / np.arange(1, 41))
    np.testing.assert_allclose(together[1, -1], np.mean([run[:, 0] for run in made.occupied]))
    assert final[1].tolist() == [0.3, 0.3]
    (band,) = picture.figure.axes[0].patches
    assert band.get_extents().transformed(picture.figure.axes[0].transData.inverted()).intervaly == pytest.approx(
        (0.2, 0.4)
    )


def test_least_certain_states_are_shown() -> None:
    rng = np.random.default_rng(0)
    widths = [0.1, 0.5, math.nan, 0.3, 0.2, 0.6, 0.4, 0.05]
    estimates = [Estimate(label=str(w), share=0.5, low=0.0, high=w) for w in widths]
    occupied = [rng.random((50, len(widths))) < 0.5]
    assert least_certain(estimates, occupied) == [2, 5, 1, 6, 3, 4]
    assert len(least_certain(estimates, occupied)) == PANELS
    assert list(populations([], [np.zeros((5, 0), bool)], 1.0)) == []


# --- the page -----------------------------------------------------------------------------------

FIGURES = ["populations", "ladder_walk", "swaps", "energy_overlap"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("size", "frames"), [(2, 40), (16, 40), (4, 1)])
def test_ladders_of_any_size(tmp_path: Path, size: int, frames: int) -> None:
    page, *figures = write_simulation_page(tmp_path / "AA.html", simulation(frames, size))
    assert page == tmp_path / "AA.html"
    assert figures == [tmp_path / "AA_figures" / f"{name}.png" for name in FIGURES]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)
    text = page.read_text(encoding="utf-8")
    found = Tables(text)
    assert list(found.images) == FIGURES
    for image in found.images.values():
        kind, _, data = image.partition(";base64,")
        assert kind in ("data:image/svg+xml", "data:image/png")
        assert base64.b64decode(data)
    assert list(found.values["rungs"]) == [str(r) for r in range(size)]
    assert f"2 ladders of {size} rungs, 310 to 600 K" in text
    assert "<h1>Replica exchange of AA</h1>" in text
    assert not re.search(r"@import|url\(|https?:|file:", text)


def test_tables_have_the_numbers(tmp_path: Path) -> None:
    flat = ladder((1.0, 1.0), frames=600)  # every swap is accepted
    made = simulation(frames=600, size=3, n_ladders=1, ladders=[flat])
    made = replace(
        made, findings=[Finding(level="bad", text="ψ(A1) α: R̂ of 1.4.", quantity="ψ(A1) α")], provenance={"seed": "<1>"}
    )
    text = write_simulation_page(tmp_path / "AA.html", made)[0].read_text(encoding="utf-8")
    values = Tables(text).values
    assert values["states"]["ψ(A1) α"] == [0.3, 0.2, 1.01, 250.0, 7.0]
    assert "30 ± 1\u00a0%</data> <span" in text  # marked
    assert "✕ bad" in text
    assert "20 to 40\u00a0%" in text
    assert ">unknown</data>" in text  # R̂ of αL
    assert "1\u202f200" in text
    (t0, rate0, e0), (t1, rate1, e1, trips1), (t2, e2, trips2) = values["rungs"].values()
    assert (t0, t1, t2) == pytest.approx(flat.temperatures_k)
    assert (rate0, rate1) == (1.0, 1.0)
    assert (e0, e1, e2) == pytest.approx(flat.energy_kT.mean(axis=0))
    # A conveyor belt: each of 3 walkers needs 6 attempts a round trip, 1 200 attempts take 0.6 ns.
    assert trips2 == pytest.approx(3 * 1200 / 6 / 0.6, rel=0.01)
    assert trips1 >= trips2
    assert "&lt;1&gt;" in text
    assert text.index(made.headline.text, text.index("<body>")) < text.index("<table")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("frames", [1, 2, 500])
def test_plain_md_has_no_ladder(tmp_path: Path, frames: int) -> None:
    page, *figures = write_simulation_page(tmp_path / "AA.html", simulation(frames))
    assert [path.name for path in figures] == ["populations.png"]
    text = page.read_text(encoding="utf-8")
    assert "<h1>Molecular dynamics of AA</h1>" in text
    assert list(Tables(text).values) == ["states"]
    assert "adder" not in text[text.index("<body>") :]


def test_pages_of_one_folder_keep_their_figures(tmp_path: Path) -> None:
    first = write_simulation_page(tmp_path / "AA.html", simulation())
    second = write_simulation_page(tmp_path / "AG.html", simulation())
    assert all(path.exists() for path in [*first, *second])
    assert len({*first, *second}) == 4


def test_a_page_is_written_whole_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (page, _) = write_simulation_page(tmp_path / "AA.html", simulation())
    before = page.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        write_simulation_page(page, simulation(frames=50))
    assert page.read_bytes() == before


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    one, two = (write_simulation_page(tmp_path / f"{n}.html", simulation())[0] for n in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="give \\(T, 3\\)"):
        simulation(occupied=[np.zeros((4, 2), bool)])
    with pytest.raises(ValueError, match="T at least 1"):
        simulation(occupied=[])
    with pytest.raises(ValueError, match="2 sets of temperatures"):
        plot_simulation(simulation(ladders=[ladder((0.3,), 5), ladder((0.3, 0.3), 5)]))
