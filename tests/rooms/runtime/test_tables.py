"""Tables that name peptides: NA, NAN, INF and FALSE come back as names, as the documentation says to read them."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from boltzray.evaluation.summary import write_summary
from boltzray.evaluation.summary_rows import Row
from boltzray.report.curves import BudgetRun, save_curves
from boltzray.runtime.tables import write_table

NAMES = ["NA", "NAN", "INF", "FALSE", "YES", "ACE-A-NME"]


def read_as_documented(path: Path, root: Path) -> pd.DataFrame:
    """Run the line of docs/howto/names.md on a table."""
    (line,) = re.findall(r"^table = (pd\.read_csv\(.*\))$", (root / "docs/howto/names.md").read_text(), re.MULTILINE)
    return eval(line.replace('"table.csv"', "path"), {"pd": pd, "path": path})  # the documentation's own line


@pytest.mark.parametrize("names", [NAMES, *[[name] for name in NAMES]])
def test_names_come_back_from_the_summary(tmp_path: Path, root: Path, names: list[str]) -> None:
    rows = [Row(sequence=name, sampler="SNIS", metrics={"ess": 0.5}) for name in names]
    write_summary(tmp_path, [*rows, Row(sequence="AA", sampler="", error="failed")], {})
    assert list(pq.read_table(tmp_path / "table.parquet")["sequence"].to_pylist()) == [*names, "AA"]
    assert list(pd.read_parquet(tmp_path / "table.parquet")["sequence"]) == [*names, "AA"]
    table = read_as_documented(tmp_path / "table.csv", root)
    assert list(table["sequence"]) == [*names, "AA"]
    assert table["ess"].tolist()[:-1] == [0.5] * len(names)
    assert pd.isna(table["ess"].iloc[-1])


@pytest.mark.parametrize("name", NAMES)
def test_names_come_back_from_any_table(tmp_path: Path, root: Path, name: str) -> None:
    rows: list[dict[str, Any]] = [{"sequence": name, "value": 1.0}, {"sequence": name, "value": None}]
    assert pq.read_table(write_table(tmp_path / "t.parquet", rows))["sequence"].to_pylist() == [name, name]
    table = read_as_documented(write_table(tmp_path / "t.csv", rows), root)
    assert list(table["sequence"]) == [name, name]
    assert table["value"].dtype == float


def test_the_other_tables_name_no_peptide(tmp_path: Path) -> None:
    """Of runs and trials: were there a column of peptides, it would belong to the test above."""
    run = BudgetRun(method="MD", budget=100, repeat=0, energies=100.0, seconds=1.0, metrics={"energy_w2": 1.0})
    save_curves(tmp_path, [run], {})
    assert "sequence" not in pq.read_table(tmp_path / "runs.parquet").column_names
