"""Train a flow on shards."""

from _door import run

if __name__ == "__main__":
    run("train", "boltzray.training", "TrainJob", "train")
