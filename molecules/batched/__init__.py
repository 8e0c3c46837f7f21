"""The force field and Langevin dynamics of many conformations at once, on tensors of any device."""
