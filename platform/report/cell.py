"""An ensemble as the output of a notebook's cell: verdict, backbone angles, conformations in 3-D, diagnostics."""

from collections.abc import Sequence
from html import escape

from boltzray.molecules.ensemble import Ensemble

from .conformers import ASSETS, conformers, viewer_code, viewer_data
from .contents import HasChain, Report, number
from .figures_structures import ramachandran
from .page import DIAGNOSTICS, rows
from .plotting import Picture, styled

MARKS = {"good": "✓", "warn": "!", "bad": "✕"}
COLOURS = {"good": "#00704f", "warn": "#8a5a00", "bad": "#a8330b"}


def cell(ensemble: Ensemble, peptide: HasChain, temperature_k: float, findings: Sequence[tuple[str, str]]) -> str:
    """Return HTML that needs nothing else: `findings`, the headline first, are (level, text)."""
    (level, headline), *others = findings
    n, n_atoms = ensemble.positions_nm.shape[:2]
    lines = "".join(f'<li style="color:{COLOURS[level]}">{MARKS[level]} {escape(text)}</li>' for level, text in others)
    table = "".join(
        f"<tr><th align=left>{escape(row['label'])}</th><td>{escape(row['cells'][0]['text'])}</td></tr>"
        for row in rows([ensemble], "diagnostics", DIAGNOSTICS, [])
    )
    pictures = "".join(
        f'<img alt="{escape(picture.caption)}" style="max-width:34em" src="{picture.data_uri()}">'
        for picture in _pictures(Report(peptide=peptide, ensembles=[ensemble]))
    )
    title = f"{ensemble.name} at {temperature_k:g} K: {number(n)} conformations of {n_atoms} atoms"
    return (
        f'<div><p><b>{escape(title)}</b></p><p style="color:{COLOURS[level]}">{escape(headline)}</p>'
        f'<ul style="list-style:none">{lines}</ul>{pictures}{_viewer(ensemble, peptide)}<table>{table}</table></div>'
    )


def _viewer(ensemble: Ensemble, peptide: HasChain) -> str:
    """Conformations to turn, in a frame of their own: names and scripts of other cells' do not meet. 200 kB."""
    states = conformers(ensemble, peptide)
    if not states:
        return ""
    script = ASSETS.with_name("viewer.js").read_text(encoding="utf-8")
    page = (
        "<style>#viewer-stage{position:relative;height:20em}</style>"
        '<button type="button" id="viewer-open">Turn them in 3-D</button><div id="viewer-choices" hidden></div>'
        '<div id="viewer-stage" hidden></div><p id="viewer-note" hidden></p>'
        f'<script type="application/json" id="viewer-data">{viewer_data(states, peptide)}</script>'
        f'<script type="text/plain" id="viewer-code">{viewer_code()}</script><script>{script}</script>'
    )
    return f'<iframe title="conformations" style="width:34em;height:24em;border:0" srcdoc="{escape(page)}"></iframe>'


@styled
def _pictures(report: Report) -> list[Picture]:
    return list(ramachandran(report))
