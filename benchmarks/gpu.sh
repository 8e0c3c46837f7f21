#!/usr/bin/env bash
# Everything of BoltzRay that a GPU can show, in eight minutes at most: checks against the CPU, then rates, as Markdown.
#
#   bash benchmarks/gpu.sh [PYTHON] [OPTIONS of gpu.py]
#
# PYTHON, or $PYTHON, or python3, or the checkout's own: the first that has torch and numpy, which are all it needs.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
candidates=("${PYTHON:-}" python3 "$root/.venv/bin/python")
if [[ $# -gt 0 && $1 != -* ]]; then
  candidates=("$1")
  shift
fi
for python in "${candidates[@]}"; do
  if [[ -n $python ]] && "$python" -c "import numpy, torch" 2>/dev/null; then
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
    exec timeout --kill-after=10 480 "$python" "$root/benchmarks/gpu.py" "$@"
  fi
done
echo "no Python with torch and numpy: give one, bash benchmarks/gpu.sh /path/to/python" >&2
exit 2
