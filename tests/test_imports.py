"""The rooms: who may import whom, one namespace for all, and the folder called platform hurts nobody."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

CODE = ("molecules", "models", "samplers", "platform")  # folders that are installed, as boltzray
CHEMISTRY, NETWORKS, STATISTICS = "boltzray.molecules", "boltzray.models", "boltzray.samplers"
BELOW = {CHEMISTRY, NETWORKS, STATISTICS}
# Each room, and the rooms that it may import besides itself. `boltzray` is what lies in platform/ itself.
MAY_IMPORT = {
    CHEMISTRY: set(),
    NETWORKS: {CHEMISTRY},
    STATISTICS: set(),
    "boltzray.runtime": BELOW,
    "boltzray.data": BELOW | {"boltzray.runtime"},
    "boltzray.training": BELOW | {"boltzray.runtime", "boltzray.data"},
    "boltzray.sampling": BELOW | {"boltzray.runtime"},
    "boltzray.report": BELOW | {"boltzray.runtime"},
}
MAY_IMPORT["boltzray.simulation"] = BELOW | {f"boltzray.{r}" for r in ("runtime", "data", "report", "sampling")}
MAY_IMPORT["boltzray.evaluation"] = MAY_IMPORT["boltzray.simulation"] | {"boltzray.simulation"}
MAY_IMPORT["boltzray.analysis"] = BELOW | {f"boltzray.{r}" for r in ("runtime", "report", "sampling", "evaluation")}
MAY_IMPORT["boltzray.finetuning"] = BELOW | {f"boltzray.{r}" for r in ("runtime", "sampling", "evaluation", "report")}
MAY_IMPORT["boltzray.sweeping"] = MAY_IMPORT["boltzray.finetuning"] | {"boltzray.finetuning"}
ROOMS = set(MAY_IMPORT)
MAY_IMPORT["boltzray"] = ROOMS
MAY_IMPORT["jobs"] = ROOMS | {"boltzray"}

ALWAYS_FORBIDDEN = {*CODE, "jobs", "tests"} - {"platform"}  # as top-level names: `boltzray.models`, not `models`
FORBIDDEN = {
    CHEMISTRY: {"ray", "hydra", "mlflow", "omegaconf"},
    NETWORKS: {"ray", "hydra", "mlflow", "omegaconf", "openmm", "mdtraj"},
    STATISTICS: {"ray", "hydra", "mlflow", "omegaconf", "openmm", "mdtraj"},
    "boltzray.report": {"ray", "hydra", "mlflow", "omegaconf"},
    "jobs": {"ray", "mlflow", "torch", "openmm", "mdtraj"},
}
RIDDLE = re.compile(r"(What|Who|How|Where|Whether|All that|Those)\b")


class Import(NamedTuple):
    """An import as an absolute name; `members` of a `from … import` may be modules."""

    module: str
    members: tuple[str, ...] = ()


def package_of(path: Path, root: Path) -> str:
    """Import name of the folder that a file lies in."""
    top, *inner = path.relative_to(root).parent.parts
    return ".".join(["boltzray", *([] if top == "platform" else [top]), *inner]) if top in CODE else top


def imports(source: str, package: str) -> Iterator[Import]:
    """All imports of a file, wherever they stand in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                yield Import(".".join([*parents, *([node.module] if node.module else [])]), names)
            else:
                yield Import(str(node.module), names)


def room_of(module: str) -> str:
    """The room that a module of ours lies in, else its top-level package."""
    parts = module.split(".")
    room = ".".join(parts[:2])
    return room if room in ROOMS else parts[0]


def forbidden(room: str, source: str, package: str) -> set[str]:
    """Names that a file of `room` imports and must not."""
    wrong = set()
    for module, members in imports(source, package):
        # `from boltzray import models` imports a room, `from boltzray import x` something else.
        for name in [f"{module}.{m}" for m in members] if module == "boltzray" else [module]:
            entered = room_of(name)
            ours = entered in ROOMS or entered == "boltzray"
            if ours and entered != room and entered not in MAY_IMPORT[room]:
                wrong.add(entered)
            if not ours and entered in FORBIDDEN.get(room, {"hydra", "omegaconf"}) | ALWAYS_FORBIDDEN:
                wrong.add(entered)
    return wrong


def unresolved(source: str, package: str, modules: dict[str, set[str]]) -> list[str]:
    """Imports of ours that name no module, or in it no name; `modules` has the names of each."""
    wrong = []
    for module, members in imports(source, package):
        if module.split(".")[0] != "boltzray" or module == "boltzray":
            continue
        if module not in modules:
            wrong.append(module)
        else:
            wrong += [f"{module}.{m}" for m in members if m not in modules[module] and f"{module}.{m}" not in modules]
    return wrong


def names_in(source: str) -> set[str]:
    """Names that a module has: defined, assigned or imported at its top level."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign) and "_HOME" in ast.unparse(node):
            names |= set(re.findall(r"'(\w+)': ", ast.unparse(node)))  # resolved on first use (PEP 562)
    return names


@pytest.fixture(scope="session")
def sources(root: Path) -> dict[Path, str]:
    """All files of code."""
    found = {path: path.read_text() for folder in (*CODE, "jobs") for path in sorted((root / folder).rglob("*.py"))}
    assert len(found) > 100
    return found


def test_rooms_import_only_what_they_may(root: Path, sources: dict[Path, str]) -> None:
    wrong = {}
    for path, source in sources.items():
        package = package_of(path, root)
        if bad := forbidden(room_of(package), source, package):
            wrong[str(path.relative_to(root))] = bad
    assert not wrong


def test_no_two_files_need_each_other(root: Path, sources: dict[Path, str]) -> None:
    """Imports have an order, so that a file can be read after those that it builds on."""
    graph = {}
    for path, source in sources.items():
        package = package_of(path, root)
        if path.stem != "__init__":  # a package's façade imports its files
            found = (f"{module}.{m}" for module, members in imports(source, package) for m in (*members, ""))
            graph[f"{package}.{path.stem}"] = {name.rstrip(".") for name in found}
            graph[f"{package}.{path.stem}"] |= {name.rpartition(".")[0] for name in graph[f"{package}.{path.stem}"]}
    inner = {name: needed & graph.keys() for name, needed in graph.items()}
    tuple(TopologicalSorter(inner).static_order())  # raises CycleError, which names the circle


def test_every_import_of_ours_resolves(root: Path, sources: dict[Path, str]) -> None:
    """mypy lets a misspelt relative import pass, since it ignores packages without types."""
    modules: dict[str, set[str]] = {}
    for path, source in sources.items():
        package = package_of(path, root)
        modules[package if path.stem == "__init__" else f"{package}.{path.stem}"] = names_in(source)
    others = [path for folder in ("tests", "benchmarks") for path in (root / folder).rglob("*.py")]
    wrong = {
        str(path.relative_to(root)): bad
        for path in [*sources, *others]
        if (bad := unresolved(path.read_text(), package_of(path, root), modules))
    }
    assert not wrong


@pytest.mark.parametrize(
    ("room", "source", "found"),
    [
        (STATISTICS, "def f():\n    import ray.train\n    from boltzray.models.flow import Flow\n", {"ray", NETWORKS}),
        (STATISTICS, "from boltzray import molecules", {CHEMISTRY}),
        (NETWORKS, "from ..samplers.smc import smc_step", {STATISTICS}),
        ("boltzray.report", "import ray", {"ray"}),
        ("boltzray.data", "from ..training.train import train", {"boltzray.training"}),
        ("boltzray.runtime", "from ..data import stream", {"boltzray.data"}),
        ("boltzray.sampling", "import hydra", {"hydra"}),
        ("boltzray.sampling", "import models", {"models"}),
        ("boltzray.sampling", "from boltzray import jobs", {"boltzray"}),
        ("boltzray.sampling", "from ..runtime.pool import x\nfrom boltzray.models import Flow\nimport ray", set()),
        ("boltzray", "from .training.train import train", set()),
    ],
)
def test_the_check_sees_what_is_forbidden(room: str, source: str, found: set[str]) -> None:
    assert forbidden(room, source, room) == found


def test_the_check_sees_what_does_not_resolve() -> None:
    modules = {"boltzray.data": set(), "boltzray.data.stream": {"batches"}, "boltzray.runtime.tables": {"write_table"}}
    good = "from .stream import batches\nfrom . import stream\nfrom ..runtime.tables import write_table"
    assert unresolved(good, "boltzray.data", modules) == []
    bad = "from .streams import batches\nfrom ..runtime.tables import write_tables\nfrom boltzray.dat import x"
    wrong = ["boltzray.data.streams", "boltzray.runtime.tables.write_tables", "boltzray.dat"]
    assert unresolved(bad, "boltzray.data", modules) == wrong


def test_rooms_are_the_packages_that_are_installed(root: Path, sources: dict[Path, str]) -> None:
    table = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {package_of(path, root) for path in sources} - {"jobs"}
    # A wheel has jobs and conf below its one name, for the command `boltzray`; nothing imports them.
    assert set(table["packages"]) == folders | {"boltzray.jobs", "boltzray.conf"}
    assert folders >= ROOMS
    for package in folders - {"boltzray"}:
        source, _, inner = package.removeprefix("boltzray.").partition(".")
        folder = root / (source if source in CODE else f"platform/{source}") / inner
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), package


def test_rooms_of_platform_have_a_sign_and_nothing_else(root: Path) -> None:
    """A worker imports only what it needs."""
    for path in (root / "platform").glob("*/__init__.py"):
        assert [type(node) for node in ast.parse(path.read_text()).body] == [ast.Expr], path


def test_docstrings_say_what_a_thing_is(root: Path, sources: dict[Path, str]) -> None:
    """The first word is a verb or the thing's noun; a question is none."""
    riddles = []
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            if documented and RIDDLE.match(ast.get_docstring(node) or ""):
                riddles.append(f"{path.relative_to(root)}: {getattr(node, 'name', 'module')}")
    assert not riddles


def test_platform_is_no_package(root: Path) -> None:
    assert not (root / "platform" / "__init__.py").exists()


def run_python(root: Path, code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_standard_library_keeps_its_platform(root: Path) -> None:
    out = run_python(root, "import torch, ray, platform; print(platform.__file__)")
    assert str(root / "platform") not in out


BARE = """
import sys
class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ImportError(name)
sys.meta_path.insert(0, Bare())
"""


def test_flows_and_samplers_run_with_torch_and_numpy_alone(root: Path) -> None:
    absent = {"ray", "hydra", "mlflow", "openmm", "mdtraj", "scipy", "arviz", "safetensors", "sklearn", "pandas"}
    code = f"""{BARE.format(absent=absent)}
from boltzray import models, molecules, samplers
from boltzray.models.augment import augment
flow = models.Flow(models.FlowConfig(channels=8, head_dim=4, blocks=2, layers_per_block=1))
print(sum(p.numel() for p in flow.parameters()))
"""
    assert int(run_python(root, code)) > 0


def test_reports_are_made_without_ray(root: Path) -> None:
    code = f"{BARE.format(absent={'ray', 'mlflow', 'hydra'})}\nimport boltzray.report.page, boltzray.report.figures"
    assert run_python(root, code) == ""
