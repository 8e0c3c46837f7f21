"""Finetuning of a flow to one peptide: rounds of sampling, reweighting and learning, each energy counted."""
