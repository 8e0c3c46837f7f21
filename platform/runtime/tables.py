"""Tables on disk, as CSV and Parquet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Rows, whose keys may differ, as `path` says: .csv or .parquet. A column of mixed kinds becomes text.

    Under a temporary name first.
    """
    columns: dict[str, pa.Array] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(key) for row in rows]
        try:
            columns[key] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[key] = pa.array([None if value is None else str(value) for value in values])
    write = pyarrow.csv.write_csv if path.suffix == ".csv" else pq.write_table
    temporary = path.with_name(f".{path.name}")
    write(pa.table(columns), str(temporary))
    return temporary.replace(path)
