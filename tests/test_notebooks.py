"""The notebooks of the documentation: they run in an empty folder, and what is shown of them was executed."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from docs.notebook_pages import on_page_markdown, page
from docs.run_notebooks import KEPT, executed, notebooks, tidy

NOTEBOOKS = notebooks()
MAX_BYTES = 300_000
# Of the machine that ran them: folders, process ids of kernels, dates, times of day.
PRIVATE = re.compile(r"/(home|root|tmp|work|Users|usr|opt)/|ipykernel|\b20\d\d[-/]\d\d[-/]\d\d|\b\d\d:\d\d:\d\d\b")
EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def printed(notebook: Any) -> str:
    """All text among the outputs."""
    texts: list[str] = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            texts += ["".join(part) for part in (output.get("text", ""), *(data[k] for k in data if k != "image/png"))]
    return "\n".join(re.sub(r"base64,[\w+/=]+", "", text) for text in texts)


@pytest.mark.slow
@pytest.mark.ray  # one of them starts a Ray of its own
@EACH
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    found = tidy(executed(path, tmp_path))
    outputs = [output for cell in found.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    assert "same bits: False" not in printed(found)
    committed = json.loads(path.read_text())
    assert [len(cell.get("outputs", [])) for cell in found.cells] == [
        len(cell.get("outputs", [])) for cell in committed["cells"]
    ]


@EACH
def test_outputs_are_there_and_of_no_machine(path: Path) -> None:
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert {kind for output in outputs for kind in output.get("data", {})} <= set(KEPT)
    assert path.stat().st_size < MAX_BYTES
    text = printed(notebook)
    assert len(text) > 200
    assert PRIVATE.search(text) is None
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)


def test_what_tells_of_a_machine_is_seen() -> None:
    for text in ("/tmp/ipykernel_1/2.py:1: UserWarning", "/home/me/x", "2026-11-29 22:00:23,367 INFO"):
        assert PRIVATE.search(text)


def test_all_are_pages_of_the_site(root: Path) -> None:
    listed = re.findall(r"notebooks/(\w+)\.md", (root / "mkdocs.yml").read_text())
    assert listed == [path.stem for path in NOTEBOOKS]
    assert len(listed) == 5


def test_a_page_has_sources_and_outputs() -> None:
    def cell(kind: str, source: str, *outputs: dict[str, Any]) -> dict[str, Any]:
        return {"cell_type": kind, "source": [source], "outputs": list(outputs)}

    shown = [
        {"output_type": "stream", "name": "stdout", "text": ["\x1b[1mone\x1b[0m\n", "two\n"]},
        {"output_type": "execute_result", "data": {"text/html": ["<b>a</b>\n\n<i>c</i>"], "text/plain": ["no"]}},
        {"output_type": "display_data", "data": {"image/png": "QUJD\n", "text/plain": ["no"]}},
        {"output_type": "execute_result", "data": {"text/plain": ["42"]}},
    ]
    text = page({"cells": [cell("markdown", "# Title\nWords."), cell("code", "f(1)", *shown)]}, "n.ipynb")
    assert text.startswith("# Title\n\n<p><a")
    assert 'download href="n.ipynb"' in text
    parts = ["Words.", "```python\nf(1)\n```", "one\ntwo\n```", "<b>a</b>\n<i>c</i></div>", "base64,QUJD", "\n42\n```"]
    assert [text.find(part) for part in parts] == sorted(text.find(part) for part in parts)
    assert all(part in text for part in parts)
    assert "no\n" not in text
    assert on_page_markdown("[a](../b.ipynb) [c](https://d.org/e.ipynb)") == "[a](../b.md) [c](https://d.org/e.ipynb)"
