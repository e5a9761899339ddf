"""Rows to Parquet without losing anything: the columns' types are chosen when all rows have been seen.

A column holds integers if all its numbers fit into 64 bits, doubles if every number survives as one (the shortest text of the
double is the number as written), and else text: numbers as written, true and false, lists and objects as JSON. Objects with
the same keys in every row are structs, lists are lists of one such type. What a row lacks is null. pyarrow is imported when a
file is written.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import reduce
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from harmonyray.errors import UserError
from harmonyray.records.formats import Number

# A kind: one of these, ("list", kind), ("map", kind, kind), ("struct", {name: kind}), or ("arrow", type) for what is of Arrow's.
Kind = Any
NULL, BOOL, SMALL, INT, FLOAT, TEXT = "null", "bool", "small", "int", "float", "text"
_EXACT = 2**53  # integers up to here are doubles too
_INT64 = 2**63
_DEEPEST = 16  # what is nested deeper is written as JSON text


def json_text(value: Any) -> str:
    """A value as JSON, numbers as written. Without recursion, so that depth does not matter. Raises ValueError for nan and
    infinity, which JSON does not have."""
    parts: list[str] = []
    stack: list[tuple[bool, Any]] = [(False, value)]
    while stack:
        is_done, item = stack.pop()
        if is_done:
            parts.append(item)
        elif isinstance(item, Mapping):
            pieces: list[tuple[bool, Any]] = [(True, "{")]
            for n, (key, inner) in enumerate(item.items()):
                pieces += [(True, f"{', ' if n else ''}{_quoted(str(key))}: "), (False, inner)]
            stack += reversed([*pieces, (True, "}")])
        elif isinstance(item, list | tuple):
            pieces = [(True, "[")]
            for n, inner in enumerate(item):
                pieces += [(True, ", " if n else ""), (False, inner)]
            stack += reversed([*pieces, (True, "]")])
        else:
            parts.append(_scalar_json(item))
    return "".join(parts)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _scalar_json(value: Any) -> str:
    if isinstance(value, Number):
        return str(value)
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float | Decimal):
        if not math.isfinite(value):
            raise ValueError(f"{value} is no JSON number")
        return repr(value) if isinstance(value, float) else str(value)
    return _quoted(value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value))


def _shallow(value: Any) -> Any:
    """A value as it is, or as JSON text if it is nested deeper than `_DEEPEST`."""
    stack = [(value, 0)] if isinstance(value, Mapping | list) else []
    while stack:
        item, depth = stack.pop()
        if depth > _DEEPEST:
            return json_text(value)
        inner = item.values() if isinstance(item, Mapping) else item
        stack += [(part, depth + 1) for part in inner if isinstance(part, Mapping | list)]
    return value


def kind_of(value: Any) -> Kind:
    """The narrowest kind that holds a value."""
    if value is None:
        return NULL
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, Number | int | float | Decimal):
        return _number_kind(value)
    if isinstance(value, str):
        return TEXT
    if isinstance(value, Mapping):
        inner = {str(key): kind_of(item) for key, item in value.items()}
        return ("struct", inner) if inner else TEXT
    if isinstance(value, list):
        if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):  # a map, as pyarrow reads them
            keys, items = zip(*value, strict=True)
            return ("map", _common(keys), _common(items))
        return ("list", _common(value))
    import pyarrow as pa

    return ("arrow", pa.scalar(value).type)


def _common(values: Sequence[Any]) -> Kind:
    return reduce(unify, map(kind_of, values), NULL)


def _number_kind(value: Any) -> Kind:
    if isinstance(value, float):
        return FLOAT
    text = str(value)
    if not any(sign in text for sign in ".eE"):
        if len(text) > 20 or str(int(text)) != text or not -_INT64 <= int(text) < _INT64:
            return TEXT
        return SMALL if abs(int(text)) <= _EXACT else INT
    try:
        survives = Decimal(repr(float(text))) == Decimal(text)
    except (ArithmeticError, OverflowError):
        survives = False
    return FLOAT if survives else TEXT


def unify(a: Kind, b: Kind) -> Kind:
    """The narrowest kind that holds what either holds."""
    if a == b or b == NULL:
        return a
    if a == NULL:
        return b
    if isinstance(a, str) and isinstance(b, str):
        pair = {a, b}
        if pair == {SMALL, INT}:
            return INT
        return FLOAT if pair == {SMALL, FLOAT} else TEXT
    if isinstance(a, tuple) and isinstance(b, tuple) and a[0] == b[0] and a[0] in ("list", "map"):
        return (a[0], *(unify(x, y) for x, y in zip(a[1:], b[1:], strict=True)))
    for empty, other in ((a, b), (b, a)):
        if empty == ("list", NULL) and isinstance(other, tuple) and other[0] == "map":
            return other
    if isinstance(a, tuple) and isinstance(b, tuple) and a[0] == b[0] == "struct" and a[1].keys() == b[1].keys():
        return ("struct", {key: unify(inner, b[1][key]) for key, inner in a[1].items()})
    return TEXT


def arrow_type(kind: Kind) -> Any:
    """The Arrow type of a kind; a column of nulls is one of texts."""
    import pyarrow as pa

    if isinstance(kind, str):
        plain = {BOOL: pa.bool_(), SMALL: pa.int64(), INT: pa.int64(), FLOAT: pa.float64()}
        return plain.get(kind, pa.string())
    if kind[0] == "list":
        return pa.list_(arrow_type(kind[1]))
    if kind[0] == "map":
        return pa.map_(arrow_type(kind[1]), arrow_type(kind[2]))
    if kind[0] == "struct":
        return pa.struct([(_holdable(key), arrow_type(inner)) for key, inner in kind[1].items()])
    return kind[1]


def convert(value: Any, kind: Kind) -> Any:
    """A value as a column of `kind` holds it."""
    if value is None:
        return None
    if isinstance(kind, str):
        if kind in (SMALL, INT):
            return int(value)
        if kind == FLOAT:
            return float(value)
        if kind == BOOL:
            return value
        return _holdable(value if isinstance(value, str) else _text(value))
    if kind[0] == "list":
        return [convert(item, kind[1]) for item in value]
    if kind[0] == "map":
        pairs = value.items() if isinstance(value, Mapping) else value
        return [(convert(key, kind[1]), convert(item, kind[2])) for key, item in pairs]
    if kind[0] == "struct":
        return {_holdable(key): convert(value[key], inner) for key, inner in kind[1].items()}
    return value


def _text(value: Any) -> str:
    plain = isinstance(value, float) or not isinstance(value, Mapping | list | tuple | bool | bytes)
    return str(value) if plain else json_text(value)


def _holdable(text: str) -> str:
    """A text that UTF-8 can hold; half a surrogate pair becomes its escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class ParquetSpool:
    """Keeps rows in an unnamed file beside `path` until their kinds are known, then writes `path`. `fixed`: the kinds of columns
    that have one from the start."""

    def __init__(self, path: Path, fixed: Mapping[str, Kind]) -> None:
        self._path = path
        self._fixed = fixed
        self._kinds: dict[str, Kind] = {}
        self._file = TemporaryFile(dir=path.parent)  # noqa: SIM115 (closed on leaving)
        self._num_chunks = 0

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keeps rows and widens the columns' kinds by them."""
        kept = [{key: _shallow(value) for key, value in row.items()} for row in rows]
        for row in kept:
            for key, value in row.items():
                self._kinds[key] = self._fixed.get(key) or unify(self._kinds.get(key, NULL), kind_of(value))
        pickle.dump(kept, self._file, protocol=pickle.HIGHEST_PROTOCOL)
        self._file.flush()
        self._num_chunks += 1

    def __enter__(self) -> ParquetSpool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        with self._file:
            if kind is None:
                self._finish()

    def _finish(self) -> None:
        """Writes the file. Raises UserError for rows that Parquet cannot hold."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([(_holdable(key), arrow_type(kind)) for key, kind in self._kinds.items()])
        try:
            with pq.ParquetWriter(self._path, schema) as writer:
                for rows in self._chunks():
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        except pa.ArrowException as e:
            raise UserError(f"the rows do not fit into a Parquet table ({e}); write .jsonl instead") from e

    def _chunks(self) -> Iterator[list[dict[str, Any]]]:
        self._file.seek(0)
        for _ in range(self._num_chunks):
            rows = pickle.load(self._file)
            yield [{_holdable(key): convert(row.get(key), kind) for key, kind in self._kinds.items()} for row in rows]
