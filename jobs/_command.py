"""The command `boltzray VERB key=value …`, which a wheel installs: `python jobs/VERB.py key=value …` of a checkout."""

import ast
import os
import runpy
import sys
from pathlib import Path

JOBS = Path(__file__).resolve().parent
COMPLETION = """\
_boltzray() {{
    if [ "$COMP_CWORD" -le 1 ]; then
        COMPREPLY=($(compgen -W "{verbs}" -- "${{COMP_WORDS[COMP_CWORD]}}"))
    else
        local line="${{COMP_LINE#*boltzray }}"
        local point=$((COMP_POINT - ${{#COMP_LINE}} + ${{#line}}))
        COMPREPLY=($(COMP_LINE="$line" COMP_POINT=$point boltzray "${{COMP_WORDS[1]}}" -sc query=bash 2>/dev/null))
        [[ "${{COMPREPLY[0]}}" == *= ]] && compopt -o nospace
    fi
}}
COMP_WORDBREAKS=${{COMP_WORDBREAKS//=}}
complete -F _boltzray boltzray
"""


def main() -> None:
    """Run the job that the first word names, in a process as the script of that name has it."""
    verb, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if verb in ("--help", "-h"):
        print(usage())
    elif verb == "--version":
        import boltzray

        print(f"boltzray {boltzray.__version__}")
    elif verb == "--completion":
        print(COMPLETION.format(verbs=" ".join(verbs())), end="")
    elif verb not in verbs():
        print(f"error: {verb} is no job: give one of {', '.join(verbs())}", file=sys.stderr)
        raise SystemExit(2)
    else:
        os.environ["BOLTZRAY_COMMAND"] = "1"  # messages name commands as they were typed
        script = str(JOBS / f"{verb}.py")
        sys.argv = [script, *rest]
        sys.path.insert(0, str(JOBS))  # as of a script
        runpy.run_path(script, run_name="__main__")


def verbs() -> list[str]:
    """Names of the jobs."""
    return sorted(path.stem for path in JOBS.glob("[!_]*.py"))


def usage() -> str:
    """Text of `boltzray --help`: each job with the first line of its file."""
    lines = [f"  {verb:<12}{ast.get_docstring(ast.parse((JOBS / f'{verb}.py').read_text()))}" for verb in verbs()]
    return "\n".join(
        [
            "Weighted Boltzmann ensembles of peptides.\n",
            "    boltzray VERB key=value group=option …      boltzray VERB --help shows all keys\n",
            *lines,
            "\n  --version",
            '  --completion  a script for bash, or zsh with bashcompinit: eval "$(boltzray --completion)"',
        ]
    )
