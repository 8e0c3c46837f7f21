"""Make a data folder: columns of tars, or tars of one molecule's frames."""

from _main import run

if __name__ == "__main__":
    run("prepare", "boltzray.data.prepare", "PrepareJob", "prepare")
