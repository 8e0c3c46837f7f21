"""Training data: preparation, shards as they are found, and batches that do not depend on who computes them."""
