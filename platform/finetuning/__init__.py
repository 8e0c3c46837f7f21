"""Finetuning of a flow to one peptide: rounds of drawing, weighting and learning, each energy counted."""
