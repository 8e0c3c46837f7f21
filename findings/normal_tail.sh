#!/usr/bin/env bash
# PyTorch 2.13.0: the normal distribution function torch.special.ndtr loses the lower tail, and is zero from -6 on in float32.
#
# Expected: the mass below -5 is 2.8665e-07, that below -6 is 9.8659e-10. Both are far above the smallest float32, and
#   torch.special.ndtri, the inverse, gives -5 and -6 back.
# Seen: errors of 4 % at -5 and 57 % at -5.5, exactly 0 from -6 on (in float64 from -9 on), so that ndtri(ndtr(-6)) is -inf.
#   torch.distributions.Normal.cdf does the same; half of torch.special.erfc(-x/sqrt(2)) is right to seven digits. Output:
#     x -5.0: ndtr 2.9802e-07, erfc 2.8665e-07, exact 2.8665e-07, ndtri(ndtr(x)) -4.9925
#     x -5.5: ndtr 2.9802e-08, erfc 1.8990e-08, exact 1.8990e-08, ndtri(ndtr(x)) -5.4200
#     x -6.0: ndtr 0.0000e+00, erfc 9.8659e-10, exact 9.8659e-10, ndtri(ndtr(x)) -inf
# Source: it is computed as (1 + erf(x/sqrt(2)))/2, which cancels (aten/src/ATen/native/UnaryOps.cpp, calc_ndtr);
#   github.com/pytorch/pytorch issue 192295 (float64), pull request 189234 (a repair, also of exact GELU).
# Why it matters: flows that map mixtures to normal numbers by their distribution functions do it with this pair. A draw
#   of five standard deviations does not come back, one of six is lost as not finite. Here: models/mixture.py uses erfc.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$work/env/bin/python" - <<'PY'
import math

import torch

seen = []
for value in (-5.0, -5.5, -6.0):
    x = torch.tensor(value)
    mass = torch.special.ndtr(x)
    other = 0.5 * torch.special.erfc(-x / math.sqrt(2))
    exact = 0.5 * math.erfc(-value / math.sqrt(2))
    print(f"x {value}: ndtr {mass:.4e}, erfc {other:.4e}, exact {exact:.4e}, ndtri(ndtr(x)) {torch.special.ndtri(mass):.4f}")
    assert abs(other / exact - 1) < 1e-5
    seen.append(abs(mass.item() / exact - 1))
assert seen[0] > 0.03, "the mass below -5 is right"
assert seen[1] > 0.3, "the mass below -5.5 is right"
assert seen[2] == 1.0, "the mass below -6 is no longer zero"
PY
