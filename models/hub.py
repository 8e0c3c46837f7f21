"""Address of a checkpoint → its local path: a path, `boltzray://NAME` (bundled), or `hub://ORG/REPO[@REVISION]/PATH`."""

import re
from pathlib import Path

HUB, BUNDLED = "hub://", "boltzray://"
DESCRIPTION = "flow.json"  # what makes a folder a checkpoint
DEFAULT_CHECKPOINT = "boltzray://peptides-small"
BUNDLED_FOLDER = Path(__file__).with_name("pretrained")
_URL = re.compile(r"hub://([^/@\s]+/[^/@\s]+)(?:@([^/\s]+))?/([^\s]+[^/\s])")


def locate(checkpoint: str | Path, home: str | Path = ".") -> Path:
    """Return the local path of a checkpoint; a relative one is below `home`, and a run's folder stands for its flow.

    A file of the hub is downloaded once into the hub's own cache (HF_HOME), and from then on taken from there: give
    a revision for another one. HF_HUB_OFFLINE=1 forbids the download.

    Raises: ValueError for a misspelt address, FileNotFoundError with what to do where the hub does not have it or
    cannot be reached. Whether a local path exists is not looked at.
    """
    text = re.sub("^(hub|boltzray):/+", r"\1://", str(checkpoint))  # a Path keeps one slash only
    if text.startswith(HUB):
        return _download(text)
    if text.startswith(BUNDLED):
        return _bundled(text.removeprefix(BUNDLED))
    if "://" in text:
        raise ValueError(
            f"checkpoint {text}: give a path, boltzray://NAME for weights that come with BoltzRay, or "
            "hub://ORG/REPO/PATH for a file on the Hugging Face hub"
        )
    path = Path(home) / Path(text).expanduser()
    of_run = path / "checkpoint"
    return of_run if not (path / DESCRIPTION).exists() and (of_run / DESCRIPTION).exists() else path


def bundled() -> list[str]:
    """Names of the flows that come with BoltzRay, sorted."""
    return sorted(path.parent.name for path in BUNDLED_FOLDER.glob(f"*/{DESCRIPTION}"))


def _bundled(name: str) -> Path:
    if name not in bundled():
        known = ", ".join(BUNDLED + n for n in bundled())
        raise FileNotFoundError(f"{BUNDLED}{name} does not come with BoltzRay: there are {known}")
    return BUNDLED_FOLDER / name


def _download(url: str) -> Path:
    match = _URL.fullmatch(url)
    if not match:
        raise ValueError(f"{url} names no file: write hub://ORG/REPO/PATH, or hub://ORG/REPO@REVISION/PATH")
    repository, revision, path = match[1], match[2] or "main", match[3]
    by_hand = (
        f"or download https://huggingface.co/{repository}/resolve/{revision}/{path} by hand, with that file name, "
        "and give its path as checkpoint="
    )
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as error:
        raise FileNotFoundError(
            f"{url} needs huggingface_hub: python -m pip install huggingface_hub, {by_hand}"
        ) from error
    try:  # the cache first: the client would ask the network for news, and wait long where there is none
        return Path(hf_hub_download(repository, path, revision=revision, local_files_only=True))
    except errors.LocalEntryNotFoundError:
        pass
    except ValueError as error:
        raise ValueError(f"{url} is no address on the hub: {_first_line(error)}") from error
    try:
        return Path(hf_hub_download(repository, path, revision=revision))
    except errors.LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{url} is not in the cache, and the hub cannot be reached (no network, or HF_HUB_OFFLINE is set): "
            f"try again with a network, {by_hand}"
        ) from error
    except Exception as error:  # no such file, no access, a full disk, a broken transfer …
        raise FileNotFoundError(
            f"{url} could not be had from the hub ({_first_line(error)}): check the address, {by_hand}"
        ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
