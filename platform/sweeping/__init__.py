"""Sweeps over finetuning with Ray Tune."""
