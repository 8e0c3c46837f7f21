#!/usr/bin/env bash
# PyTorch 2.13: making an optimiser imports the compiler, in processes that compile nothing.
#
# Expected: torch.optim.AdamW([parameter]) takes milliseconds; the tracing compiler (torch._dynamo, and with it SymPy) is
#   imported by who calls torch.compile.
# Seen: the first optimiser of a process imports both: seconds, and 71 MB.
#   Output of this script (seconds of CPU; these differ by machine):
#     AdamW: 1.91 s and 71 MB to make, 0.011 s a step; torch._dynamo, sympy imported: [False, False] -> [True, True]
# Versions: torch 2.13.0 (CPU build), numpy 2.4.6.
# Source: torch/_compile.py: functions under torch._disable_dynamo, of which Optimizer.add_param_group is one, import
#   torch._dynamo at their first call; Adam's step imports it by itself.
# Why it matters: short trainings and workers that start often (finetuning in a notebook, tests, actors that are replaced)
#   pay seconds for each process before their first step, which profiles show as "constructing an optimiser". Nothing that
#   is public avoids it. Here: only processes that train make an optimiser.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$work/env/bin/python" - <<'PY'
import resource
import sys
import time

import torch


def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


parameter = torch.nn.Parameter(torch.zeros(10))
parameter.grad = torch.ones(10)
compiler = ("torch._dynamo", "sympy")
before = [name in sys.modules for name in compiler]
memory, began = megabytes(), time.process_time()
optimizer = torch.optim.AdamW([parameter])
made = time.process_time() - began
after = [name in sys.modules for name in compiler]
grown = megabytes() - memory
began = time.process_time()
optimizer.step()
step = time.process_time() - began
print(f"AdamW: {made:.2f} s and {grown:.0f} MB to make, {step:.3f} s a step; {', '.join(compiler)} imported: {before} -> {after}")
sys.exit(before != [False, False] or after != [True, True])
PY
