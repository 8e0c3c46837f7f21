"""What all jobs have in common: Hydra composes, the configuration is typed, errors are one line."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # works without an installation, too

from boltzray.config import parse  # noqa: E402
from boltzray.environment import prepare  # noqa: E402

prepare()

T = TypeVar("T")
INTERRUPTED = 130


def run(config_name: str, kind: type[T], action: Callable[[T], Any]) -> None:
    """Compose `conf/<config_name>.yaml` with the command line, and give the typed result to `action`."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here, and leave as one line
    os.environ["BOLTZRAY_JOB"] = config_name

    composed: list[DictConfig] = []
    try:
        hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name=config_name)(composed.append)()
        for config in composed:  # none after --help or --cfg
            values = OmegaConf.to_container(config, resolve=True)
            assert isinstance(values, dict)
            action(parse(kind, {str(key): value for key, value in values.items()}))
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except (HydraException, OmegaConfBaseException) as error:
        fail(_one_line(error))
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        if os.environ.get("BOLTZRAY_TRACEBACK"):
            traceback.print_exc()
        fail(_one_line(error))


def fail(message: str) -> None:
    """Say what is wrong, and stop."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def _one_line(error: BaseException) -> str:
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
    if text.startswith("Could not override '") and "To append" in text:
        return f"unknown key {text.split(chr(39))[1]}: see --help for the keys there are"
    return text.split(" Config search path:")[0]
