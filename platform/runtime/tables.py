"""Tables on disk, as CSV and Parquet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from boltzray.molecules.storage import replacing


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows, whose keys may differ, as CSV where `path` ends in .csv, else as Parquet; returns `path`.

    A column of mixed kinds becomes text. A reader sees the whole file or the one before it.
    """
    columns: dict[str, pa.Array] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(key) for row in rows]
        try:
            columns[key] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[key] = pa.array([None if value is None else str(value) for value in values])
    write = pyarrow.csv.write_csv if path.suffix == ".csv" else pq.write_table
    with replacing(path) as temporary:
        write(pa.table(columns), str(temporary))
    return path
