"""Training of a flow on Ray Train: workers, optimiser step, checkpoints, validation."""
