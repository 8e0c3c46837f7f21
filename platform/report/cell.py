"""An ensemble as the output of a notebook's cell: verdict, backbone angles, diagnostics."""

from collections.abc import Sequence
from html import escape

from boltzray.molecules.ensemble import Ensemble

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
        f'<ul style="list-style:none">{lines}</ul>{pictures}<table>{table}</table></div>'
    )


@styled
def _pictures(report: Report) -> list[Picture]:
    return list(ramachandran(report))
