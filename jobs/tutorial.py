"""The whole pipeline on one small peptide."""

from _main import run

if __name__ == "__main__":
    run("tutorial", "boltzray.tutorial", "TutorialJob", "tutorial")
