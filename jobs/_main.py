"""Run a job from the command line: Hydra composes, the configuration is typed, errors are one line."""

import os
import sys
import traceback
from functools import partial
from importlib import import_module
from pathlib import Path

import hydra
from _arguments import read_arguments
from _help import show_help
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

ROOT = Path(__file__).resolve().parent.parent
INTERRUPTED = 130


def run(config_name: str, module: str, kind: str, action: str) -> None:
    """Compose `conf/<config_name>.yaml` with the command line, make it a `kind`, and give that to `action`.

    The module is named, not imported: `--help` and a misspelt key need not wait for torch, Ray and OpenMM.
    """
    _use_this_checkout()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here, and leave as one line
    composed: list[DictConfig] = []
    try:
        wants_help, sys.argv[1:] = read_arguments(sys.argv[1:], config_name)
        task = partial(show_help, ROOT / "conf", config_name) if wants_help else composed.append
        hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name=config_name)(task)()
        for config in composed:  # none after --help or --cfg
            _perform(config, module, kind, action)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except (HydraException, OmegaConfBaseException, ValueError, FileNotFoundError, RuntimeError) as error:
        if os.environ.get("BOLTZRAY_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {_one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def _use_this_checkout() -> None:
    """Import boltzray from beside this file, installed or not, here and in the workers of a local Ray cluster.

    Ray's workers do not get `sys.path` of a driver: they would import another checkout that is installed, or nothing.
    """
    sys.path.insert(0, str(ROOT))
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", str(ROOT))]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *others])


def _perform(config: DictConfig, module: str, kind: str, action: str) -> None:
    from boltzray.runtime.config import parse
    from boltzray.runtime.environment import prepare

    prepare()
    job = import_module(module)
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    getattr(job, action)(parse(getattr(job, kind), {str(key): value for key, value in values.items()}))


def _one_line(error: BaseException) -> str:
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
    if text.startswith("Could not override '") and "To append" in text:
        return f"unknown key {text.split(chr(39))[1]}: see --help for the keys there are"
    return text.split(" Config search path:")[0]
