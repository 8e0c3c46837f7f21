"""Molecular dynamics of peptides as Ray tasks, written as shards to train on and references to compare with."""
