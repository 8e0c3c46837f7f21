"""What MkDocs calls while it builds the site: formulas become MathML, and docs/reference.md is filled from docstrings.

MathML is drawn by the browser itself, so pages with formulas load nothing and work offline.
"""

import ast
import html
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).parent.parent
MARK = re.compile(r"^<!-- reference: (\w+) -->$", re.MULTILINE)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)

Documented = ast.ClassDef | ast.FunctionDef


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each mark by the reference of that room."""
    return MARK.sub(lambda match: "\n".join(_room(match[1])), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Formulas, as arithmatex leaves them, as MathML."""
    return FORMULA.sub(_mathml, html)


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match[2] == "[" else "inline"
    return f"<{match[1]}>{convert(html.unescape(match[3]).strip(), display=display)}</{match[1]}>"


def _room(room: str) -> Iterator[str]:
    """Markdown of the public names of a room: those of its `__init__`; of platform the jobs and their settings."""
    for path, names in (_jobs() if room == "boltzray" else _exported(room)).items():
        module = ast.parse((ROOT / path).read_text())
        found = [node for node in module.body if isinstance(node, Documented) and node.name in names]
        for node in found:
            yield from _entry(node, path)


def _exported(room: str) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for node in ast.walk(ast.parse((ROOT / room / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"{room}."):
            path = f"{str(node.module).replace('.', '/')}.py"
            names.setdefault(path, []).extend(alias.name for alias in node.names)
    return names


def _jobs() -> dict[str, list[str]]:
    """`run("train", "boltzray.training.train", "TrainJob", "train")` in jobs/*.py names what a job is made of."""
    names: dict[str, list[str]] = {}
    for path in sorted((ROOT / "jobs").glob("[!_]*.py")):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            _, module, kind, action = (ast.literal_eval(argument) for argument in call.args)
            file = f"platform/{module.removeprefix('boltzray.')}.py"
            defined = {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, Documented)}
            names.setdefault(file, []).extend({kind, action} & defined)
    for path in sorted((ROOT / "platform").glob("*.py")):
        file = f"platform/{path.name}"
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Job", "Config")):
                names.setdefault(file, []).append(node.name)
    return names


def _entry(node: Documented, path: str) -> Iterator[str]:
    docstring = ast.get_docstring(node)
    if docstring is None:
        raise ValueError(f"{path}: {node.name} is public and has no docstring")
    module = path.removesuffix(".py").replace("platform/", "boltzray/").replace("/", ".")
    yield f"### `{node.name}`\n\n```python\n# {module}\n{_signature(node)}\n```\n\n{_shown(docstring)}\n"
    if isinstance(node, ast.ClassDef):
        for method in node.body:
            text = ast.get_docstring(method) if isinstance(method, ast.FunctionDef) else None
            if text and not method.name.startswith("_"):
                yield f"* `{_signature(method)}`: {text.splitlines()[0]}"
        yield ""


def _signature(node: Documented) -> str:
    """A function's arguments; a class's fields with defaults, or what its `__init__` takes."""
    if isinstance(node, ast.FunctionDef):
        result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"{node.name}({ast.unparse(node.args)}){result}"
    lines = [f"    {ast.unparse(field)}" for field in node.body if isinstance(field, ast.AnnAssign)]
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            lines.append(f"    {_signature(method).removesuffix(' -> None')}")
    return "\n".join([f"class {node.name}", *lines])


def _shown(docstring: str) -> str:
    """A docstring as Markdown: paragraphs, and a line of its own for Shape, Units, Raises and Source."""
    text = inspect.cleandoc(docstring)
    return re.sub(r"\n(Shape|Units|Raises|Source|Returns):", r"\n\n*\1:*", text).replace("|x̄|", "&#124;x̄&#124;")
