"""Hook of MkDocs: a notebook with its outputs becomes a page, and stays a file to download.

Notebooks are shown as they were executed; nothing runs while the site is made.
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

LINK = re.compile(r"\]\((?!\w+:)([^)]+)\.ipynb\)")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def on_files(files: "Files", config: "MkDocsConfig", **_: Any) -> "Files":
    """Add a page NAME.md for each NAME.ipynb."""
    from mkdocs.structure.files import File

    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            content = page(json.loads(file.content_string), Path(file.src_uri).name)
            files.append(File.generated(config, file.src_uri.removesuffix(".ipynb") + ".md", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to notebooks, which work in a checkout too, lead to their pages."""
    return LINK.sub(r"](\1.md)", markdown)


def page(notebook: dict[str, Any], name: str) -> str:
    """Markdown of a notebook, with a link to its file after the title."""
    first, *rest = notebook["cells"]
    title, _, text = "".join(first["source"]).partition("\n")
    download = f'<p><a class="md-button" download href="{name}">Download {name}</a></p>'  # no link to a page
    parts = [title, download, text.strip(), *(part for cell in rest for part in _cell(cell))]
    return "\n\n".join(parts) + "\n"


def _cell(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    return [f"```python\n{source}\n```", *(_output(output) for output in cell["outputs"])]


def _output(output: dict[str, Any]) -> str:
    """HTML stays, pictures are in the page, all else is text."""
    if output["output_type"] == "stream":
        return _text("".join(output["text"]))
    data = {kind: "".join(value) for kind, value in output["data"].items()}
    if "text/html" in data:
        # In Markdown a block of HTML ends with an empty line.
        return '<div class="output">' + re.sub(r"\n\s*\n", "\n", data["text/html"]) + "</div>"
    if "image/png" in data:
        return (
            f'<img alt="output of the cell above" src="data:image/png;base64,{data["image/png"].replace(chr(10), "")}">'
        )
    return _text(data["text/plain"])


def _text(text: str) -> str:
    return f"```{{ .text .no-copy .output }}\n{ANSI.sub('', text).rstrip()}\n```"
