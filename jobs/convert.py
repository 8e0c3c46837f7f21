"""Make a checkpoint folder of a public .pth file, or the other way round."""

from _main import run

if __name__ == "__main__":
    run("convert", "boltzray.convert", "ConvertJob", "convert")
