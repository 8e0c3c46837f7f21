"""Run a job from the command line: Hydra composes, the configuration is typed, errors are one line."""

import atexit
import codecs
import errno
import locale
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from functools import partial
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path

import hydra
from _arguments import read_arguments
from _help import show_help
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

ROOT = Path(__file__).resolve().parent.parent  # of a checkout; in a wheel `boltzray`, with the same folders
ERRORS = (HydraException, OmegaConfBaseException, ValueError, FileNotFoundError, RuntimeError)  # of one line


def run(config_name: str, module: str, kind: str, action: str) -> None:
    """Compose `conf/<config_name>.yaml` with the command line, make it a `kind`, and give that to `action`.

    The module is named, not imported: `--help` and a misspelt key need not wait for torch, Ray and OpenMM.
    """
    _use_utf8()
    _use_this_checkout()
    from boltzray.runtime.stopping import stoppable

    code: str | int | None = 0
    try:
        with stoppable():
            _run(config_name, module, kind, action)
    except SystemExit as end:
        code = end.code
    leave(code)


def leave(code: str | int | None) -> None:
    """End the process with all its files closed, but its modules not taken down one by one: that takes a second."""
    others = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    if not others and not isinstance(code, str):
        with suppress(OSError):  # a terminal that is closed: Python's own end knows what to do
            sys.stdout.flush()
            sys.stderr.flush()
            atexit._run_exitfuncs()
            os._exit(code or 0)
    raise SystemExit(code)


def _run(config_name: str, module: str, kind: str, action: str) -> None:
    from boltzray.runtime.progress import as_typed
    from boltzray.runtime.stopping import STOPPED, exit_code, was_stopped

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here, and leave as one line
    composed: list[DictConfig] = []
    try:
        wants_help, sys.argv[1:] = read_arguments(sys.argv[1:], config_name)
        task = partial(show_help, ROOT / "conf", config_name) if wants_help else composed.append
        hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name=config_name)(task)()
        for config in composed:  # none after --help or --cfg
            _perform(config, module, kind, action)
    except BaseException as error:
        # What an interrupt raises depends on what it interrupts: an import of C code makes it an ImportError.
        if isinstance(error, KeyboardInterrupt) or was_stopped():
            with suppress(OSError):  # the terminal is closed
                print(f"\n{STOPPED}", file=sys.stderr, flush=True)
            raise SystemExit(exit_code()) from None
        if isinstance(error, BrokenPipeError) and _reader_left():
            with suppress(OSError):  # `2>&1 | head`
                print(STOPPED, file=sys.stderr, flush=True)
            raise SystemExit(128 + signal.SIGPIPE) from None
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            line = _disk_full(error)
        elif isinstance(error, ERRORS):
            line = _one_line(error)
        else:
            raise
        if os.environ.get("BOLTZRAY_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {as_typed(line)}", file=sys.stderr)
        raise SystemExit(2) from None


def _reader_left() -> bool:
    """Return True if nobody reads the output any more, as after `| head`; it then goes nowhere."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _disk_full(error: OSError) -> str:
    """Which disks have how much space: the error of a write names no file."""
    folders = [Path(os.environ.get("BOLTZRAY_HOME") or Path.cwd()), Path(tempfile.gettempdir())]
    if error.filename:
        folders.insert(0, Path(error.filename).parent)
    free = ", ".join(f"{shutil.disk_usage(f).free / 1e6:.0f} MB in {f}" for f in dict.fromkeys(folders) if f.is_dir())
    return f"no space is left on a disk (free: {free}): free some and give the same command again, which goes on"


def _use_utf8() -> None:
    """Write files in UTF-8, whatever the locale, and print to a terminal that is not what it can show.

    The encoding of a process is settled when it starts, so one with another is started anew, in the same process. What
    the terminal lacks is printed as a question mark, here and in workers.
    """
    encodings = {str(getattr(stream, "encoding", None) or "utf-8") for stream in (sys.stdout, sys.stderr)}
    if other := {name for name in encodings if codecs.lookup(name).name != "utf-8"}:
        os.environ["PYTHONIOENCODING"] = f"{other.pop()}:replace"
    if codecs.lookup(locale.getpreferredencoding(False)).name != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _use_this_checkout() -> None:
    """Import boltzray from beside this file, installed or not, here and in the workers of a local Ray cluster.

    Ray's workers do not get `sys.path` of a driver: they would import another checkout that is installed, or nothing.
    A wheel's is found by both.
    """
    if not (ROOT / "boltzray.py").exists():
        return
    sys.path.insert(0, str(ROOT))
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", str(ROOT))]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *others])


def _perform(config: DictConfig, module: str, kind: str, action: str) -> None:
    from boltzray.runtime import beside
    from boltzray.runtime.config import parse
    from boltzray.runtime.environment import prepare
    from boltzray.runtime.progress import say

    prepare()
    if "RAY_ADDRESS" in os.environ:  # whoever submits a job waits for its first line
        say("loading")
    beside.start("boltzray.runtime.mlflow_process")
    stopped = False
    try:
        job = import_module(module)
        values = OmegaConf.to_container(config, resolve=True)
        assert isinstance(values, dict)
        getattr(job, action)(parse(getattr(job, kind), {str(key): value for key, value in values.items()}))
    except KeyboardInterrupt:
        stopped = True
        raise
    finally:
        beside.end(stopped=stopped)


def _one_line(error: BaseException) -> str:
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
    if text.startswith("Could not override '") and "To append" in text:
        return f"unknown key {text.split(chr(39))[1]}: see --help for the keys there are"
    return text.split(" Config search path:")[0]
