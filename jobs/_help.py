"""`--help` of a job: every key with its value now, and its comment in conf/."""

import os
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

LINE = re.compile(r"^(?P<indent> *)(?P<key>[\w-]+):(?P<value>.*?)(?: +# *(?P<comment>.*))?$")
Choices = Mapping[str, str | None]  # option of each group
COLUMN = 44  # where comments begin
END = """
Relative paths are below BOLTZRAY_HOME (default: this folder). RAY_ADDRESS: a cluster to run on;
MLFLOW_TRACKING_URI: where to record runs. BOLTZRAY_TRACEBACK=1 shows where an error comes from.
--cfg job prints the configuration alone."""


def show_help(conf: Path, name: str, config: DictConfig) -> None:
    """Print the help of job `name` for the configuration that Hydra has composed."""
    try:
        _print_help(conf, name, config)
        sys.stdout.flush()
    except BrokenPipeError:  # of `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_help(conf: Path, name: str, config: DictConfig) -> None:
    chosen = {str(group): option for group, option in HydraConfig.get().runtime.choices.items()}
    from boltzray.runtime.progress import as_typed

    comments = dict(_comments(conf, conf / f"{name}.yaml", "", chosen))
    usage = as_typed(f"python jobs/{name}.py key=value group=option …")
    print(f"{sys.modules['__main__'].__doc__}\n\n    {usage}")
    if HydraConfig.get().job.config_name == name:  # one of --config-name has no groups
        print("\ngroups")
        for group, option, description in _groups(conf, conf / f"{name}.yaml", chosen):
            options = sorted(path.stem for path in (conf / group).glob("*.yaml"))
            print(_filled(f"{group}={', '.join(options)}", "  "))
            print(_filled(f"now {option}{': ' if description else ''}{description}", "      "))
    print("\nkeys, and their values now")
    first = sorted(config, key=lambda key: OmegaConf.is_dict(config._get_node(key)))  # single keys before groups
    for key, line in _keys(OmegaConf.to_yaml({key: config._get_node(key) for key in first}, resolve=False)):
        comment = comments.get(key)
        print(f"  {line:<{COLUMN}}  # {comment}" if comment else f"  {line}")
    print(END)


def _filled(text: str, indent: str) -> str:
    return textwrap.fill(text, 110, initial_indent=indent, subsequent_indent=indent + "  ")


def _keys(text: str) -> Iterator[tuple[str, str]]:
    """Yield lines of YAML, each with its key as the command line has it ("" where there is none)."""
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        found = LINE.match(line)
        if found:
            path = [(indent, key) for indent, key in path if indent < len(found["indent"])]
            path.append((len(found["indent"]), found["key"]))
        yield ".".join(key for _, key in path) if found else "", line


def _comments(conf: Path, file: Path, prefix: str, chosen: Choices) -> Iterator[tuple[str, str]]:
    """Yield keys and their comments in a file and in those that it includes; the file's own come last."""
    for group, package, option in _defaults(conf, file, chosen):
        if option:
            yield from _comments(conf, conf / group / f"{option}.yaml", _joined(prefix, package), chosen)
    for key, line in _keys(file.read_text()):
        found = LINE.match(line)
        if found and found["comment"]:
            yield _joined(prefix, key), found["comment"]


def _groups(conf: Path, file: Path, chosen: Choices) -> Iterator[tuple[str, str, str]]:
    """Yield the groups that the command line chooses from, the chosen option, and the comment that heads its file."""
    for group, package, option in _defaults(conf, file, chosen):
        if not group and not package:
            yield from _groups(conf, conf / f"{option}.yaml", chosen)
        elif group and package in ("", group):
            yield group, option or "none", _beginning(conf / group / f"{option}.yaml") if option else ""


def _joined(*names: str) -> str:
    return ".".join(name for name in names if name)


def _defaults(conf: Path, file: Path, chosen: Choices) -> Iterator[tuple[str, str, str | None]]:
    """Yield folder below conf/ ("": conf/ itself), package ("": none) and name of each file in a defaults list."""
    folder = "" if file.parent == conf else file.parent.name
    for entry in (yaml.safe_load(file.read_text()) or {}).get("defaults", []):
        if isinstance(entry, str):
            name, _, package = entry.partition("@")
            if name not in ("_self_", "_hydra"):
                yield folder, package, name
        else:
            ((place, option),) = entry.items()
            place = place.removeprefix("override ").lstrip("/")
            option = chosen.get(place, option)
            group, _, package = place.partition("@")
            whole = option is not None and "_global_" in (conf / group / f"{option}.yaml").read_text().split("\n")[0]
            yield group, package or ("" if whole or option is None else group), option


def _beginning(file: Path) -> str:
    """Return the comment that heads a file."""
    lines: list[str] = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines += [line.lstrip("# ")] if "@package" not in line else []
    return " ".join(lines)
