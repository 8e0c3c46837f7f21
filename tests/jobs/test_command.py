"""The command `boltzray`: jobs as verbs, the same as `python jobs/VERB.py`."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from job_processes import environment, run_job

MAIN = "from boltzray.jobs._command import main; main()"


def boltzray(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *words],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_job_is_a_verb(root: Path, home: Path) -> None:
    text = boltzray(home).stdout
    for path in (root / "jobs").glob("[!_]*.py"):
        assert f"\n  {path.stem} " in text
    assert boltzray(home, "--help").stdout == text


def test_version_is_that_of_the_project(root: Path, home: Path) -> None:
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert boltzray(home, "--version").stdout == f"boltzray {version}\n"


def test_a_verb_is_its_script(home: Path) -> None:
    """The same configuration and help, but for the name of the command; and the same error, in one line."""
    arguments = ("sequence=AA", "smc=mala", "--cfg", "job")
    assert boltzray(home, "sample", *arguments).stdout == run_job(home, "sample", *arguments).stdout
    helped = run_job(home, "sample", "--help").stdout
    assert "python jobs/sample.py key=value" in helped
    assert boltzray(home, "sample", "--help").stdout == helped.replace("python jobs/sample.py", "boltzray sample")
    done = boltzray(home, "sample", "sampels=3")
    assert (done.returncode, done.stderr) == (2, "error: unknown key sampels: see --help for the keys there are\n")


def test_a_word_that_is_no_job_is_named(home: Path) -> None:
    done = boltzray(home, "sampel")
    assert done.returncode == 2
    assert done.stderr.startswith("error: sampel is no job: give one of analyze, compare,")


@pytest.mark.parametrize(
    ("line", "expected"), [("boltzray sa", {"sample"}), ("boltzray sample smc=", {"smc=hmc", "smc=mala"})]
)
def test_bash_completes_verbs_and_groups(home: Path, line: str, expected: set[str]) -> None:
    words = line.split()
    script = f"""
boltzray() {{ "{sys.executable}" -c "{MAIN}" "$@"; }}
eval "$(boltzray --completion)"
COMP_LINE="{line}" COMP_POINT={len(line)} COMP_CWORD={len(words) - 1}
COMP_WORDS=({line})
compopt() {{ :; }}
_boltzray
echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script], cwd=home, env=environment(home), capture_output=True, text=True)
    assert expected <= set(done.stdout.split()), done.stderr
