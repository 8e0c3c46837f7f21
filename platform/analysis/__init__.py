"""Observables and free energies of finished ensembles, references and trajectories of one's own."""
