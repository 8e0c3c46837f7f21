"""Train a flow on shards."""

from _door import run

from boltzray.training import TrainJob, train

if __name__ == "__main__":
    run("train", TrainJob, train)
