"""Rows in and out of the offline verbs: JSON Lines, JSON, CSV and Parquet. What columns mean is the verbs' own business; nothing
that they hold is changed on the way."""

from harmonyray.records.reading import (
    PARQUET,
    STREAM,
    BadRows,
    chunks,
    counted,
    no_column,
    no_rows,
    read_records,
    scalar_text,
    shown,
    usable,
)
from harmonyray.records.writing import RecordWriter, check_folder, check_out

__all__ = [
    "PARQUET",
    "STREAM",
    "BadRows",
    "RecordWriter",
    "check_folder",
    "check_out",
    "chunks",
    "counted",
    "no_column",
    "no_rows",
    "read_records",
    "scalar_text",
    "shown",
    "usable",
]
