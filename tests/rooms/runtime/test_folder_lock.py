"""Two jobs in one results folder: the second is told at once; the lock ends with its process, however that ends."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from boltzray.runtime.folder_lock import LOCK, FolderInUse, holding

CODE = """
import sys, time
from pathlib import Path
from boltzray.runtime.folder_lock import holding
with holding(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def holder(root: Path, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", CODE, str(folder)], cwd=root, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_who_holds_the_folder(root: Path, tmp_path: Path) -> None:
    process = holder(root, tmp_path)
    try:
        began = time.monotonic()
        told = rf"{tmp_path} is in use by process {process.pid} on .*, since 20"
        with pytest.raises(FolderInUse, match=told), holding(tmp_path, patience_s=0.2):
            pass
        assert time.monotonic() - began < 2
        (tmp_path / "within").mkdir()
        with holding(tmp_path / "within", patience_s=0.2):  # another folder
            pass
    finally:
        process.kill()
        process.wait()
    with holding(tmp_path, patience_s=0.2):  # nothing is left behind by SIGKILL
        pass


def test_one_process_may_hold_a_folder_more_than_once(root: Path, tmp_path: Path) -> None:
    with holding(tmp_path):
        with holding(tmp_path / "." / ""):
            pass
        code = CODE.replace("time.sleep(100)", "")
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True)
        assert "FolderInUse" in other.stderr
    assert (tmp_path / LOCK).read_text() == ""
    holder(root, tmp_path).kill()
