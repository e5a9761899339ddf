"""What the rows of a file of answers say: whose answers they are, in which views, with which gold answer.

A row holds all views of a problem, or one of them: `{"id", "view", "answers", "gold"?}`, gathered by id. The views of a file
are those that most of its first rows have.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from harmonyray.answers.extract import extract_answer
from harmonyray.errors import ProblemError
from harmonyray.problems.rows import Row
from harmonyray.records import PARQUET, BadRows, no_column, read_records, scalar_text, shown, usable
from harmonyray.records.formats import Number
from harmonyray.registry import nearest

EXAMPLE = '{"id": "a", "views": {"solver": ["4", "5"], "reframer": ["4"]}}'
PEEKED = 256  # rows that decide which views a file has
_IDS = ("id", "question_id")
_ONE_VIEW = ("view", "answers")
_LIKE_GOLD = ("answer", "target", "reference", "ground_truth")
_COLUMNS = frozenset({*_IDS, *_ONE_VIEW, "views", "gold"})

Answers = Sequence[Sequence[str | None]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One problem: its `views` [V], `answers` [V][N] (None: no answer), and its gold answer if the row has one."""

    id: Any
    views: tuple[str, ...]
    answers: Answers
    gold: str | None


def read_entries(source: str, bad: BadRows, extract: str | None) -> Iterator[Entry]:
    """The problems of a file, or of standard input for `-`. Rows of one view each are gathered first and come last.

    The views, and their order, are those that most of the first `PEEKED` problems have (of equally many, those that come
    first); every other row must have the same ones (an empty list is a view without samples, and so is null in Parquet).
    null and "" are samples without an answer. `extract`: the kind of answer to look for in whole responses. Raises
    ProblemError for a row that cannot be used, unless `bad` skips it.
    """
    rows = _gathered(read_records(source, bad, "vote", EXAMPLE, _COLUMNS), bad)
    is_parquet = Path(source).suffix.lower() == PARQUET
    held = usable(rows, lambda row: _views(row, is_parquet), bad)
    head = list(islice(held, PEEKED))
    known = _usual_views([views for _, views in head])
    num_gold, like_gold = 0, ""

    def entry(row: Row) -> Entry:
        views = _views(row, is_parquet)
        _check_views(row, views, known)
        return Entry(_id(row), known, [_answers(row, name, views[name], extract) for name in known], _gold(row, extract))

    for row, made in usable((row for row, _ in chain(head, held)), entry, bad):
        num_gold += made.gold is not None
        like_gold = like_gold or next((name for name in _LIKE_GOLD if name in row.columns), "")
        yield made
    if like_gold and not num_gold:
        print(f"note: no row has a 'gold', but there is a column {like_gold!r}: did you mean 'gold'?", file=sys.stderr)


def gold_text(text: str, extract: str | None) -> str:
    """A gold answer, or the answer of a worked solution, as GSM8K has them, where whole responses are read."""
    if extract is not None and ("####" in text or "\\boxed" in text):
        return extract_answer(text, extract) or text
    return text


def _gathered(rows: Iterable[Row], bad: BadRows) -> Iterator[Row]:
    """Rows of all views as they come; then, of rows that hold one view each, one for each id in the order of the ids."""
    parts: dict[str, Row] = {}
    for row in rows:
        if "views" in row.columns or not all(name in row.columns for name in _ONE_VIEW):
            yield row
            continue
        try:
            _add(row, parts)
        except ProblemError as e:
            bad.report(e, row.short_place)
    yield from parts.values()


def _add(row: Row, parts: dict[str, Row]) -> None:
    problem_id = _id(row)
    name = scalar_text(row, "column 'view'", row.values["view"])
    if not name:
        raise ProblemError(f"{row.place}: column 'view' is {shown(row.values['view'])}; expected the name of a view: correct it")
    values = {"id": problem_id, "views": {name: row.values["answers"]}, "gold": row.values.get("gold")}
    key = f"{type(problem_id).__name__} {problem_id}"
    known = parts.setdefault(key, Row(row.origin, row.short_place, values, row.columns))
    if known.values is values:
        return
    if name in known.values["views"]:
        raise ProblemError(
            f"{row.place}: view {name!r} of id {problem_id!r} was there already ({known.short_place} or later); expected one row "
            "for each id and view: remove one of the two"
        )
    if None not in (values["gold"], known.values["gold"]) and values["gold"] != known.values["gold"]:
        raise ProblemError(
            f"{row.place}: the gold of id {problem_id!r} is {shown(values['gold'])}, but {shown(known.values['gold'])} in "
            f"{known.short_place}; expected one gold answer for each id: correct one of the two"
        )
    gold = values["gold"] if known.values["gold"] is None else known.values["gold"]
    views = known.values["views"] | values["views"]
    parts[key] = Row(known.origin, known.short_place, {"id": problem_id, "views": views, "gold": gold}, known.columns)


def _usual_views(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The names that most rows have, in the order of the first of these rows."""
    first: dict[tuple[str, ...], tuple[str, ...]] = {}
    count: dict[tuple[str, ...], int] = {}
    for views in rows:
        names = tuple(sorted(views))
        first.setdefault(names, tuple(views))
        count[names] = count.get(names, 0) + 1
    return first[max(count, key=lambda names: count[names])] if count else ()


def _id(row: Row) -> Any:
    column = next((name for name in _IDS if row.values.get(name) is not None), None)
    if column is None:
        raise ProblemError(f"{row.place}: no id in column 'id'; expected rows like {EXAMPLE}: add one")
    value = row.values[column]
    if isinstance(value, Number) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    return scalar_text(row, f"the id in column {column!r}", value)


def _gold(row: Row, extract: str | None) -> str | None:
    text = scalar_text(row, "column 'gold'", row.values.get("gold"))
    return gold_text(text, extract) if text else None


def _views(row: Row, null_is_empty: bool) -> Mapping[str, Any]:
    """The views of a row by name; Parquet may hold them as a struct or as a map (pairs)."""
    if "views" not in row.values and _ONE_VIEW[0] in row.columns:
        raise ProblemError(
            f"{row.place}: no column 'answers' beside 'view'; the row has: {', '.join(row.columns)}; expected rows like "
            f'{{"id": "a", "view": "solver", "answers": ["4", "5"]}}, or {EXAMPLE}'
        )
    if "views" not in row.values:
        raise no_column(row, "views", EXAMPLE)
    views = row.values["views"]
    if isinstance(views, list) and views and all(isinstance(pair, tuple) and len(pair) == 2 for pair in views):
        views = dict(views)
    if not isinstance(views, Mapping) or not views:
        raise ProblemError(f"{row.place}: column 'views' is {shown(views)}; expected an object of lists: {EXAMPLE}")
    return {name: [] if answers is None and null_is_empty else answers for name, answers in views.items()}


def _check_views(row: Row, views: Mapping[str, Any], known: Sequence[str]) -> None:
    usual = f"the views of most rows (of the first {PEEKED}) are {', '.join(known)}"
    for name in views:
        if name not in known:
            raise ProblemError(
                f"{row.place}: view {name!r} is not one of {', '.join(known)}, the views of most rows (of the first {PEEKED}); "
                f"{_close(name, known)}expected the same views in every row: rename or remove it"
            )
    for name in known:
        if name not in views:
            raise ProblemError(
                f"{row.place}: view {name!r} is missing; {usual}; expected the same views in every row: add it, as "
                f'"{name}": [] if it has no samples'
            )


def _close(name: str, known: Sequence[str]) -> str:
    hint = nearest(name, list(known))
    return f"{hint} " if hint.startswith("did you mean") else ""


def _answers(row: Row, view: str, values: Any, extract: str | None) -> list[str | None]:
    if not isinstance(values, list):
        raise ProblemError(f"{row.place}: view {view!r} is {shown(values)}; expected a list of answers: correct it")
    texts = [scalar_text(row, f"answer {n} of view {view!r}", value) for n, value in enumerate(values, 1)]
    return texts if extract is None else [extract_answer(text, extract) if text else None for text in texts]
