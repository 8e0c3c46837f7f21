"""Names of peptides: the ways in which people write them, the one canonical form, and the length.

The canonical name is a row of one-letter codes, `ARIP`, with caps set off by hyphens, `ACE-A-NME`: file names and
tables hold it. Where a capped row would spell a three-letter code, its letters are set off too: `ACE-A-L-A-NME`, for
`ACE-ALA-NME` is what everyone calls the capped alanine. States of protonation have three letters, and then all residues
of the name do: `ALA-HIP-ALA`.
"""

import re
from collections.abc import Sequence
from itertools import groupby

from .residues import CAPS, LETTERS, ONE_LETTER, STATES

ACE, NME = "ACE", "NME"
# Upper case of what stands before, and after, the residues: None for the free, charged end that a plain name has.
_FIRST: dict[str, str | None] = {"ACE": ACE, "AC": ACE, "ACETYL": ACE, "H": None}
_LAST: dict[str, str | None] = {"NME": NME, "NHME": NME, "NMA": NME, "NHCH3": NME, "OH": None}
_HISTIDINES = {"HIE": "HIS", "HSE": "HIS"}  # the one that is built
_STATES = {name: name for name in STATES} | {"HSD": "HID", "HSP": "HIP", "ASPP": "ASH", "GLUP": "GLH"}
_CODES = ONE_LETTER | {name: ONE_LETTER[usual] for name, usual in _HISTIDINES.items()}
_LETTER_MEANS = {
    "B": "aspartate or asparagine",
    "J": "leucine or isoleucine",
    "O": "pyrrolysine",
    "U": "selenocysteine",
    "X": "any residue",
    "Z": "glutamate or glutamine",
}
_ENDS = dict.fromkeys(("NH2", "NHE", "CONH2", "AMIDE"), "an amide as C terminus") | dict.fromkeys(
    ("FOR", "FORMYL", "BOC", "FMOC", "CBZ", "SUC", "PYR", "PGLU", "PCA", "OME", "OET", "OBN", "BIOTIN", "PALM"),
    "a terminal group",
)
_RESIDUES = {
    "AIB": "aminoisobutyric acid",
    "MSE": "selenomethionine",
    "SEC": "selenocysteine",
    "PYL": "pyrrolysine",
    "SEP": "phosphoserine",
    "TPO": "phosphothreonine",
    "PTR": "phosphotyrosine",
    "HYP": "hydroxyproline",
    "NLE": "norleucine",
    "NVA": "norvaline",
    "ORN": "ornithine",
    "SAR": "sarcosine",
    "CIT": "citrulline",
    "DAB": "diaminobutyric acid",
    "DAP": "diaminopropionic acid",
    "ABA": "aminobutyric acid",
    "CYX": "cysteine in a disulphide",
    "CYM": "deprotonated cysteine",
    "LYN": "neutral lysine",
    "ASX": "aspartate or asparagine",
    "GLX": "glutamate or glutamine",
    "XLE": "leucine or isoleucine",
    "XAA": "any residue",
    "UNK": "an unknown residue",
}
_OTHERS = _ENDS | _RESIDUES
_D_RESIDUE = re.compile(r"[dD]-?(?P<code>[A-Za-z]{3})")
_HYPHENS = dict.fromkeys(map(ord, "‐‑‒–—−"), "-")  # as word processors write them
_USE = (
    "use the twenty L-amino acids, HID, HIP, ASH or GLH, free ends or the caps Ace and Nme; jobs/fit.py takes others, "
    "from a file"
)


def parse_sequence(text: str) -> str:
    """The canonical name of a peptide, from what people write.

    `ARIP` or all of it in lower case; three-letter codes, `AlaGly`, `ALA-GLY`, `H-Ala-Gly-OH`; caps, `Ace-Ala-Nme`,
    `ACE-A-NME`, `Ac-Ala-NHMe`; states of protonation, `Ala-Hip-Ala`; FASTA text of one record. Nothing is read as
    letters that could mean anything else.

    Raises: ValueError of one line that names what is not read, or that there are fewer than two residues.
    """
    row = _one_record(text) if text.lstrip().startswith(">") else text.strip()
    row = row.translate(_HYPHENS).removesuffix("*").strip()
    if not row:
        raise ValueError("the sequence is empty: give at least two residues in one-letter codes, such as 'AA'")
    if odd := _notation(row):
        raise ValueError(f"sequence {text!r}: {odd}")
    tokens = _tokens(row)
    first, last = None, None
    _refuse_stray_letters(tokens)
    if len(tokens) > 1 and tokens[0].upper() in _FIRST and not _is_histidine(tokens):
        first = _FIRST[tokens.pop(0).upper()]
    if tokens and len(tokens) + (first is not None) > 1 and tokens[-1].upper() in _LAST:
        last = _LAST[tokens.pop().upper()]
    several = len(tokens) + bool(first) + bool(last) > 1  # HIP alone is three letters
    states = several and any(token.upper() in _STATES for token in tokens)
    letters = _three_letter_codes(tokens, text) if states else _letters(tokens, text, capped=bool(first or last))
    if len(letters) + bool(first) + bool(last) < 2 or not letters:
        what = f"sequence {text!r} has {'one residue' if letters else 'no residue'}"
        raise ValueError(
            f"{what}: give at least two residues in one-letter codes, such as 'AA', or caps, as in ACE-A-NME"
        )
    return (
        label([*([first] if first else []), *letters, *([last] if last else [])])
        if states
        else canonical("".join(letters), first, last)
    )


def check_sequence(sequence: str, max_residues: int | None = None) -> str:
    """The canonical name, or a ValueError that says what is not read, or names the limit."""
    name = parse_sequence(sequence)
    if max_residues is not None and n_residues(name) > max_residues:
        raise ValueError(
            f"sequence {sequence!r} has {n_residues(name)} residues: give at most {max_residues}, "
            "or use a model for longer peptides"
        )
    return name


def reading_note(text: str) -> str | None:
    """A note where capitals without hyphens could have been meant as three-letter codes, else None."""
    row = text.strip()
    codes = [row[i : i + 3] for i in range(0, len(row), 3)]
    if len(codes) < 2 or not row.isupper() or not all(code in _CODES for code in codes):
        return None
    return f"{row} is read as {len(row)} residues in one-letter codes: write {'-'.join(codes)} for {len(codes)}"


def canonical(letters: str, first: str | None = None, last: str | None = None) -> str:
    """The name of a row of one-letter codes between caps, if it has any."""
    if not (first or last):
        return letters
    inner = "-".join(letters) if letters in {**_CODES, **_STATES, **_OTHERS, **_FIRST, **_LAST} else letters
    return "-".join(part for part in (first, inner, last) if part)


def label(residues: Sequence[str]) -> str:
    """The name of a chain of residues: those outside the twenty by their names, as in `ACE-AAA-NME`, `AA-MSE-A`."""
    if any(name in STATES for name in residues):
        return "-".join(residues)
    first = ACE if residues[0] == ACE else None
    last = NME if residues[-1] == NME else None
    inner = residues[bool(first) : len(residues) - bool(last)]
    if inner and all(name in ONE_LETTER for name in inner):
        return canonical("".join(ONE_LETTER[name] for name in inner), first, last)
    runs = groupby(residues, key=lambda name: name in ONE_LETTER)
    return "-".join("".join(ONE_LETTER[n] for n in run) if ok else "-".join(run) for ok, run in runs)


def residue_names(name: str) -> list[str]:
    """Three-letter names of the residues, and caps, of a canonical name without others than those of vocabulary 2."""
    first, last = caps(name)
    code = {letter: residue for residue, letter in ONE_LETTER.items()}
    parts = name.split("-")[int(first) : -1 if last else None]
    inner = parts if "-" in name and set(parts) & STATES.keys() else [code[letter] for letter in "".join(parts)]
    return [*([ACE] if first else []), *inner, *([NME] if last else [])]


def unusual_residues(name: str) -> set[str]:
    """Caps, and residues outside the twenty, that a canonical name has in it by their names."""
    return {part for part in name.split("-") if part in {**CAPS, **STATES, **_RESIDUES}} if "-" in name else set()


def caps(name: str) -> tuple[bool, bool]:
    """Return True for a capped N terminus, and for a capped C terminus, of a canonical name."""
    return name.startswith(f"{ACE}-"), name.endswith(f"-{NME}")


def inner_letters(name: str) -> str:
    """One-letter codes of a canonical name, without caps; a residue outside the twenty counts as X.

    A state of protonation has the letter of its residue.
    """
    first, last = caps(name)
    parts = name.split("-")
    inner = parts[int(first) : -1 if last else None]
    if len(parts) > 1 and set(inner) & STATES.keys():
        return "".join(ONE_LETTER.get(STATES[part][0] if part in STATES else part, "X") for part in inner)
    return "".join("X" if len(parts) > 1 and part in _RESIDUES else part for part in inner)


def n_residues(name: str) -> int:
    """Number of residues of a canonical name: caps are none."""
    return len(inner_letters(name))


# --- tokens -------------------------------------------------------------------------------------


def _tokens(row: str) -> list[str]:
    """Parts of a name. Raises: ValueError for empty ones."""
    spaced = row.split()
    if len(spaced) > 1 and all(part.upper() in {*_CODES, *_STATES, *_FIRST, *_LAST, *_OTHERS} for part in spaced):
        return spaced  # `Ala Gly`
    if re.fullmatch("([A-Z][a-z]{2})+", row):
        return re.findall("...", row)  # `AlaGly`
    tokens = row.split("-")
    if len(tokens) > 1 and not all(tokens):
        raise ValueError(f"sequence {row!r} has nothing between two hyphens, or at an end: leave that hyphen out")
    return tokens


def _refuse_stray_letters(tokens: Sequence[str]) -> None:
    """Raises: ValueError for single letters between hyphens of which one could be a free end, or a D or an L.

    Of `ACE-A-L-A-NME`, which is canonical, the letters spell a code.
    """
    inner = [token for token in tokens if token.upper() not in (ACE, NME)]
    row = "".join(inner)
    if (
        len(inner) < 2
        or len(row) > len(inner)
        or (len(inner) < len(tokens) and row in {**_CODES, **_STATES, **_OTHERS, **_FIRST, **_LAST})
    ):
        return
    if inner[0].upper() == "H" or {"D", "L"} & {token.upper() for token in inner[:-1]}:
        raise ValueError(
            f"sequence {'-'.join(tokens)!r}: H- can be a free end, D- and L- the handedness: write {row} for "
            "one-letter codes, or three-letter codes"
        )


def _is_histidine(tokens: Sequence[str]) -> bool:
    """Return True where a leading H is a residue: of `H-NME`, `H-I-S-NME`, and not of `H-Ala-Gly`, `H-A-G-OH`."""
    inner = [token for token in tokens if token.upper() != NME]
    return tokens[0].upper() == "H" and all(len(token) == 1 for token in inner)


def _three_letter_codes(tokens: Sequence[str], text: str) -> list[str]:
    """Names of the residues between the ends of a chain with states of protonation, all in three-letter codes."""
    known = {**_STATES, **{name: name for name in ONE_LETTER}, **_HISTIDINES}
    for token in tokens:
        if token.upper() not in known:
            state = next(token for token in tokens if token.upper() in _STATES)
            reason = _reason(token, tokens) if token.upper() in _OTHERS else f"{token} is no three-letter code"
            raise ValueError(f"sequence {text!r}: {reason}; beside {state} write all residues as in ALA-HIP-ALA")
    return [known[token.upper()] for token in tokens]


def _letters(tokens: Sequence[str], text: str, *, capped: bool) -> str:
    """One-letter codes of the residues between the ends. Raises: ValueError naming what is none of the twenty."""
    several = len(tokens) > 1 or capped
    codes = [_CODES.get(token.upper()) for token in tokens]
    titled = all(re.fullmatch("[A-Z][a-z]{2}", token) for token in tokens)
    if tokens and all(codes) and (several or titled):
        return "".join(code for code in codes if code)
    if len(tokens) == 1 and not (capped and tokens[0].upper() in _OTHERS):
        return _row(tokens[0], text)
    if all(len(token) == 1 for token in tokens):
        return "".join(_row(token, text) for token in tokens)
    unread = [token for token, code in zip(tokens, codes, strict=True) if code is None]
    named = [token for token in unread if token.upper() in (*_OTHERS, "D", "L")]
    raise ValueError(f"sequence {text!r}: {_reason((named or unread)[0], tokens)}")


def _row(row: str, text: str) -> str:
    """A row of one-letter codes, all upper or all lower case."""
    if row.upper() in {**_OTHERS, **_STATES} and (not row.isupper() or not row.isalpha()):
        raise ValueError(f"sequence {text!r}: {_reason(row, [row])}")
    if not row.isupper() and not row.islower():
        raise ValueError(f"sequence {text!r}: {_mixed(row)}")
    for position, letter in enumerate(row.upper(), start=1):
        if letter not in LETTERS:
            known = f" ({_LETTER_MEANS[letter]})" if letter in _LETTER_MEANS else ""
            raise ValueError(f"unknown residue {letter!r} at position {position} of {text!r}{known}: use {LETTERS}")
    return row.upper()


def _notation(row: str) -> str | None:
    """Reason why another notation is not read: phosphorylated and modified residues, rings, HELM; else None."""
    if re.search(r"(?<![a-z])p([STY](?![a-z])|Ser|Thr|Tyr)|[STY]\(p\)", row):
        return f"phosphorylated residues cannot be built from a name: {_USE}"
    if re.match(r"(sp|tr|gi|ref|pdb)\|", row):
        return "that is the header of a FASTA record: give the letters below it, or the file, sequence=FILE.fasta"
    if "$" in row or "|" in row:
        return "HELM is not read: write one-letter or three-letter codes"
    if found := re.search(r"[()\[\]{}]", row):
        return f"brackets ({found[0]}) mean modified residues or a ring, which cannot be built from a name yet: {_USE}"
    return None


def _mixed(row: str) -> str:
    """Reason why a row in upper and lower case is not read."""
    parts = re.findall("[A-Z][a-z]+|[A-Z]|[a-z]", row)
    for part in parts:
        if part.upper() in {**_OTHERS, **_STATES}:
            return _reason(part, parts)
    if odd := next((character for character in row if not character.isalpha()), ""):
        return f"unknown residue {odd!r} at position {row.index(odd) + 1}: use {LETTERS}"
    unknown = [part for part in parts if len(part) == 3 and part.upper() not in _CODES]
    if unknown and "".join(part for part in parts if len(part) == 3) == row:
        return f"unknown three-letter code {unknown[0]}: {_USE}"
    lower = next(character for character in row if character.islower())
    return (
        "upper and lower case are mixed, and it is no row of three-letter codes such as AlaGly; a lower-case "
        f"{lower!r} means a D-residue in HELM and RDKit, and such and modified ones cannot be built from a name: {_USE}"
    )


def _reason(token: str, tokens: Sequence[str]) -> str:
    """Reason why a part of a name is no residue."""
    upper = token.upper()
    found = _D_RESIDUE.fullmatch(token)
    if upper == "D" or (found and found["code"].upper() in _CODES):
        return f"D-residues cannot be built from a name: {_USE}"
    if upper == "L":
        return "leave out L-: all residues are L-amino acids"
    if upper in _OTHERS:
        return f"{token} is {_OTHERS[upper]}, which cannot be built from a name yet: {_USE}"
    if upper in _STATES:
        return f"{token} is a state of protonation: write all residues in three-letter codes, as in ALA-HIP-ALA"
    if upper in _FIRST or upper in _LAST:
        return f"{token} belongs at the {'beginning' if upper in _FIRST else 'end'}: write it as in Ace-Ala-Nme"
    if len(token) == 1 and upper in LETTERS and len(tokens) > 1:
        return f"one-letter and three-letter codes are mixed ({token}): use one kind"
    if upper.isalpha() and token.isupper() and all(letter in LETTERS for letter in upper):
        return (
            f"{token} is no three-letter code: hyphens set off such codes and caps, write one-letter codes in one row"
        )
    return f"unknown three-letter code {token}: {_USE}"


# --- FASTA ------------------------------------------------------------------------------------


def fasta_records(text: str) -> list[tuple[str, str]]:
    """Header and row of each record of FASTA text."""
    parts = re.split(r"^\s*>", text, flags=re.MULTILINE)[1:]
    found = [part.partition("\n") for part in parts]
    return [(f">{header.strip()[:60]}", "".join(row.split())) for header, _, row in found]


def _one_record(text: str) -> str:
    records = fasta_records(text)
    if records and not records[0][1]:
        raise ValueError("that is the header of a FASTA record: give the letters below it, or sequence=FILE.fasta")
    if len(records) != 1:
        raise ValueError(f"the FASTA text has {len(records)} records where one peptide is asked for: give one")
    return records[0][1]
