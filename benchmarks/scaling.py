"""ESS of the flow in the box against the core-hours that went into it, from the table in its card: docs/scaling.png.

python benchmarks/scaling.py
"""

import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

CARD = Path("models/pretrained/peptides-small/README.md")
ROW = re.compile(r"^\| \d \| .* \| ([\d.]+) \| ([\d.]+) ± ([\d.]+) \| \d+ of 30 \|$", re.MULTILINE)
PROSE = 0.191
FOUR = ((9.9, 0.003, 0.001), (12.6, 0.007, 0.002), (15.7, 0.011, 0.002))
ALIKE = 3  # parts that went on with more of the same


def main() -> None:
    hours, ess, error = np.array(ROW.findall(CARD.read_text()), float).T
    slope = np.polyfit(np.log(hours[:ALIKE]), np.log(ess[:ALIKE]), 1)[0]
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.errorbar(hours, ess, error, fmt="o-", color="#0072b2", capsize=3, label="two residues, mean of 30")
    axis.errorbar(*np.array(FOUR).T, fmt="s-", color="#d55e00", capsize=3, label="four residues, mean of 30")
    axis.axhline(PROSE, color="#8a8a8a", linestyle="--", linewidth=0.8)
    axis.text(2.6, PROSE * 1.06, "Prose, two residues, published", color="#555555", fontsize=9)
    axis.set(xscale="log", yscale="log", xlim=(2.5, 30), ylim=(1e-3, 1), xlabel="core-hours, data and training")
    axis.set(ylabel="ESS, all weights", xticks=(3, 5, 10, 20, 30), xticklabels=("3", "5", "10", "20", "30"))
    axis.minorticks_off()
    axis.legend(loc="lower left", frameon=False)
    figure.savefig("docs/scaling.png", dpi=120)
    print(f"two residues: ESS grows as core-hours to the power {slope:.2f}")


if __name__ == "__main__":
    main()
