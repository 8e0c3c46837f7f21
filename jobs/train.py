"""Train a flow on shards."""

from _main import run

if __name__ == "__main__":
    run("train", "boltzray.training.train", "TrainJob", "train")
