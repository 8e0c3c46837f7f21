"""Sampling on Ray actors: proposals of a flow, importance weights, SMC, and their files."""
