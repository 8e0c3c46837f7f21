"""Execution of the notebooks: `make notebooks` writes their outputs, a slow test runs them."""

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent / "notebooks"
TIMEOUT_S = 300.0  # of a cell
SPEED = re.compile(r"^.*\bETA\b.*\n|^\n", re.MULTILINE)  # lines of progress, other ones on every machine
ELSEWHERE = {"RAY_ADDRESS", "BOLTZRAY_HOME", "MLFLOW_TRACKING_URI"}  # nothing leaves the folder
KEPT = ("text/plain", "text/html", "image/png")


def notebooks() -> list[Path]:
    """List them in the order in which they are read."""
    return sorted(FOLDER.glob("*.ipynb"))


def executed(path: Path, folder: Path) -> Any:
    """Run all cells of a notebook in `folder`, in a kernel of this interpreter; returns the notebook with outputs.

    Raises: CellExecutionError for a cell that raises.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
        kernel_name="python3",
    )
    env = {key: value for key, value in os.environ.items() if key not in ELSEWHERE}
    return asyncio.run(client.async_execute(env=env))


def tidy(notebook: Any) -> Any:
    """Leave out what differs from one machine to another: progress, versions, and logs, which have paths and times."""
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = list(_tidied(cell.outputs))
    return notebook


def _tidied(outputs: list[Any]) -> Iterator[Any]:
    """What was printed between two other outputs is one of them."""
    for (kind, name), group in groupby(outputs, lambda output: (output.output_type, output.get("name"))):
        if kind == "stream" and name == "stdout":
            if text := SPEED.sub("", "".join(output.text for output in group)):
                yield nbformat.v4.new_output("stream", name=name, text=text)
        elif kind != "stream":
            for output in group:
                output.metadata = {}
                output.data = {kind: value for kind, value in output.data.items() if kind in KEPT}
                yield output


def main(names: list[str]) -> None:
    """Run the notebooks named, or all, and write them with their outputs."""
    for path in [Path(name) for name in names] or notebooks():
        print(path.name, flush=True)
        with tempfile.TemporaryDirectory(prefix="boltzray-notebook-") as folder:
            found = tidy(executed(path, Path(folder)))
        temporary = path.with_suffix(".tmp")
        nbformat.write(found, temporary)
        temporary.replace(path)


if __name__ == "__main__":
    main(sys.argv[1:])
