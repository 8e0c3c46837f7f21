"""Physical constants, and the temperature of the published data. Imports nothing."""

KB = 8.31446261815324e-3  # kJ/mol/K (CODATA 2018)
PUBLISHED_K = 310.0  # of the published data, weights and reference trajectories, whose files do not record it
