"""Physical constants, and the temperature of the published data. Imports nothing."""

KB = 8.31446261815324e-3  # kJ/mol/K (CODATA 2018)
PUBLISHED_K = 310.0  # of the published data, weights and reference trajectories, whose files do not record it
COVALENT_NM = {  # radii: Cordero et al. 2008
    "H": 0.031, "C": 0.076, "N": 0.071, "O": 0.066, "S": 0.105, "Se": 0.12, "P": 0.107, "F": 0.057, "Cl": 0.102,
    "Br": 0.12, "I": 0.139, "B": 0.084, "Si": 0.111,
}  # fmt: skip
