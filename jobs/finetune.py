"""Finetune a flow to one peptide, and write the report of the result."""

from _door import run

if __name__ == "__main__":
    run("finetune", "boltzray.finetuning", "FinetuneJob", "finetune_and_report")
