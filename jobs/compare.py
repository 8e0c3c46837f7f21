"""Compare MD, SNIS, SMC and finetuned flows on one peptide at equal numbers of energies."""

from _door import run

if __name__ == "__main__":
    run("compare", "boltzray.budgets", "CompareJob", "compare_budgets")
