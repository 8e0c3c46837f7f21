"""Structure files with random damage: each is refused in one line, or read as the molecule that its residues say."""

import random
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from boltzray.molecules import Peptide

CIF = Path(__file__).parents[1] / "data" / "cases" / "pdb_kinds" / "AG.cif"
SEQUENCES = ("AG", "SYK", "CHP", "ARIP", "ACE-W-NME", "GMDTLF")
LIMITS_NM = {
    "CC": (0.09, 0.23), "CN": (0.088, 0.221), "CO": (0.085, 0.213), "CS": (0.108, 0.272),
    "CH": (0.064, 0.161), "HN": (0.061, 0.153), "HO": (0.058, 0.146), "HS": (0.081, 0.204),
}  # fmt: skip
Mutation = Callable[[list[str], random.Random], None]


@cache
def built(sequence: str) -> Peptide:
    return Peptide.from_sequence(sequence)


def bonds(peptide: Peptide) -> list[list[tuple[int, str]]]:
    """Bonds by residue and name of their atoms, as pairs in order."""
    return sorted(sorted((a.residue.index, a.name) for a in bond[:2]) for bond in peptide.topology.bonds())


def some_line(lines: list[str], rng: random.Random) -> int:
    """An atom's, as a rule."""
    atoms = [i for i, line in enumerate(lines) if line.startswith(("ATOM", "HETATM"))]
    return rng.choice(atoms) if atoms and rng.random() < 0.9 else rng.randrange(len(lines))


def flip(lines: list[str], rng: random.Random) -> None:
    i = some_line(lines, rng)
    at = rng.randrange(len(lines[i]) or 1)
    lines[i] = lines[i][:at] + chr(rng.choice((rng.randrange(256), rng.randrange(32, 127)))) + lines[i][at + 1 :]


def drop(lines: list[str], rng: random.Random) -> None:
    i = some_line(lines, rng)
    del lines[i : i + rng.choice((1, 1, 2, 9))]


def duplicate(lines: list[str], rng: random.Random) -> None:
    lines.insert(some_line(lines, rng), lines[some_line(lines, rng)])


def swap(lines: list[str], rng: random.Random) -> None:
    i, j = some_line(lines, rng), some_line(lines, rng)
    lines[i], lines[j] = lines[j], lines[i]


def shift(lines: list[str], rng: random.Random) -> None:
    """Move the columns from one on."""
    i = some_line(lines, rng)
    at = rng.randrange(len(lines[i]) or 1)
    lines[i] = lines[i][:at] + rng.choice((" " + lines[i][at:], lines[i][at + 1 :]))


def exchange_columns(lines: list[str], rng: random.Random) -> None:
    """Exchange the same columns of two atoms: names, residues, coordinates, elements."""
    i, j = some_line(lines, rng), some_line(lines, rng)
    low, high = rng.choice(((12, 16), (16, 17), (17, 20), (21, 26), (30, 38), (30, 54), (76, 78)))
    one, other = lines[i], lines[j]
    lines[i], lines[j] = one[:low] + other[low:high] + one[high:], other[:low] + one[low:high] + other[high:]


def move(lines: list[str], rng: random.Random) -> None:
    """Change a coordinate: a little, a lot, or to what is no coordinate."""
    i, low = some_line(lines, rng), rng.choice((30, 38, 46))
    try:
        x = float(lines[i][low : low + 8])
    except ValueError:
        return
    step = rng.choice((0.01, 0.3, 2.0, 20.0, 900.0))
    text = rng.choice((f"{x + rng.gauss(0, step):8.3f}", "     nan", "     inf", "********", "   1e300", "        "))
    lines[i] = lines[i][:low] + text[:8] + lines[i][low + 8 :]


def move_all(lines: list[str], rng: random.Random) -> None:
    """Scale or shake all coordinates."""
    scale, step = rng.choice(((0.0, 0.0), (0.1, 0.0), (0.7, 0.0), (1.2, 0.0), (10.0, 0.0), (1.0, 0.1), (1.0, 0.5)))
    for i, line in enumerate(lines):
        if line.startswith("ATOM") and len(line) > 54 and "." in line[30:38]:
            try:
                xyz = [scale * float(line[k : k + 8]) + rng.gauss(0, step) for k in (30, 38, 46)]
            except ValueError:
                continue
            lines[i] = line[:30] + "".join(f"{x:8.3f}" for x in xyz) + line[54:]


def connect(lines: list[str], rng: random.Random) -> None:
    numbers = "".join(f"{rng.randrange(1, len(lines) + 1):5d}" for _ in range(rng.choice((2, 5))))
    lines.insert(rng.choice((0, len(lines))), f"CONECT{numbers}")


def insert(lines: list[str], rng: random.Random) -> None:
    text = rng.choice(
        ("TER", "END", "ENDMDL", "MODEL        1", "", "_atom_site.", "HETATM", "loop_", "CRYST1", "data_")
    )
    lines.insert(rng.randrange(len(lines) + 1), text)


MUTATIONS: tuple[Mutation, ...] = (
    flip, drop, duplicate, swap, shift, exchange_columns, move, move_all, connect, insert,
)  # fmt: skip


def damaged(seed: int) -> bytes:
    """A file of one to three mutations; every eighth is mmCIF."""
    rng = random.Random(seed)
    text = CIF.read_text() if seed % 8 == 0 else built(rng.choice(SEQUENCES)).to_pdb()
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(MUTATIONS)(lines, rng)
        lines = lines or [""]
    return "\n".join([*lines, ""]).encode("latin-1")


def read(path: Path) -> Peptide | None:
    """The peptide of a file, which is checked; None where it is refused in one line that names the file."""
    try:
        peptide = Peptide.from_pdb(path)
    except (ValueError, OSError) as error:
        if path.name in str(error) and "\n" not in str(error):
            return None
        raise
    assert bonds(peptide) == bonds(built(peptide.sequence))
    assert all(atom.element.symbol == atom.name[0] for atom in peptide.topology.atoms())
    assert np.isfinite(peptide.positions).all()
    if np.ptp(peptide.positions, axis=0).any():
        for a, b in peptide.topology.bonds():
            low, high = LIMITS_NM["".join(sorted(a.element.symbol + b.element.symbol))]
            assert low < np.linalg.norm(peptide.positions[a.index] - peptide.positions[b.index]) < high
        assert pdist(peptide.positions).min() > 0.0299
    return peptide


def read_all(folder: Path, seeds: range) -> list[float]:
    """Read damaged files; returns the seconds that each took, which are negative for those that were refused."""
    seconds = []
    for seed in seeds:
        path = folder / f"{seed}.{'cif' if seed % 8 == 0 else 'pdb'}"
        path.write_bytes(damaged(seed))
        start = time.perf_counter()
        try:
            accepted = read(path)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
        seconds.append((time.perf_counter() - start) * (1 if accepted else -1))
    return seconds


def test_damaged_files(tmp_path: Path) -> None:
    seconds = read_all(tmp_path, range(200))
    assert 20 < sum(s > 0 for s in seconds) < 180  # some of both


@pytest.mark.slow
def test_many_damaged_files(tmp_path: Path) -> None:
    seconds = np.array(read_all(tmp_path, range(1000, 4000)))
    print(f"{(seconds > 0).sum()} accepted, {(seconds < 0).sum()} refused, the slowest took {abs(seconds).max():.2f} s")
    assert abs(seconds).max() < 30
