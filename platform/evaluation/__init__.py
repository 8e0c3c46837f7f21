"""Comparison with reference MD: one peptide, many peptides, several samplers at equal budgets."""
