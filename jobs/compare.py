"""Compare MD, SNIS, SMC and finetuned flows on one peptide at equal numbers of energies."""

from _main import run

if __name__ == "__main__":
    run("compare", "boltzray.evaluation.compare", "CompareJob", "compare_budgets")
