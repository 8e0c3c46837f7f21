"""Any molecule with an energy: MD if there are no frames, a flow of its own, a weighted ensemble, a report."""

from _main import run

if __name__ == "__main__":
    run("fit", "boltzray.fit", "FitJob", "fit")
