"""Finetune a flow to one peptide, and write the report of the result."""

from _main import run

if __name__ == "__main__":
    run("finetune", "boltzray.finetuning.finetune", "FinetuneJob", "finetune_and_report")
