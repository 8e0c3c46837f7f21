"""Hooks of MkDocs: formulas become MathML.

MathML is drawn by the browser itself, so pages with formulas load nothing and work offline.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(html: str, **_: Any) -> str:
    """Replace formulas, as arithmatex leaves them, by MathML."""
    return FORMULA.sub(_mathml, html)


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match[2] == "[" else "inline"
    return f"<{match[1]}>{convert(html.unescape(match[3]).strip(), display=display)}</{match[1]}>"
