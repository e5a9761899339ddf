"""The explorer's data, ready for the page: JSON, compressed and in base64, in pieces that a browser opens as they are looked at.

Nothing of it stands in the page as text. A step's votes are one piece; texts of responses fill what is left of a budget.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from harmonyray.errors import ReportError, brief
from harmonyray.ledger import FOLDER, LedgerRow, Verdict, read_ledger
from harmonyray.types import IntArray

ANSWER_CHARS = 300
QUESTION_CHARS = 6_000
TEXT_CHARS = 20_000  # of one response; what is longer is cut, and says so
TEXT_BYTES = 26_000_000  # of all texts, as they stand in the file
PIECE_CHARS = 1_000_000  # of texts in one piece, before compression
USED = "used"
# Control characters, separators that end a paragraph, and what turns the direction of the text around it.
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


@dataclass
class Pieces:
    """What the page holds: `data` by the pieces' names, and how large it is."""

    data: dict[str, str] = field(default_factory=dict)
    num_bytes: int = 0

    def add(self, name: str, value: Any) -> None:
        self.put(name, packed(value))

    def put(self, name: str, text: str) -> None:
        self.data[name] = text
        self.num_bytes += len(text)


def packed(value: Any) -> str:
    """JSON, gzip, base64."""
    raw = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    return base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode("ascii")


@dataclass
class Disagreement:
    """How often two selectors give other labels: counts int[S, S] over `num_cells` problems and steps."""

    names: list[str]
    counts: IntArray
    num_cells: int = 0

    def add(self, row: LedgerRow) -> None:
        labels = [row.verdicts[name].label for name in self.names]
        ids = np.array([labels.index(label) for label in labels])
        self.counts += ids[:, None] != ids[None, :]
        self.num_cells += 1


@dataclass
class Explorer:
    """The packed pieces, how many problems and steps they hold, the selectors' disagreement, and whether it has gold answers."""

    pieces: Pieces
    num_problems: int
    num_steps: int
    disagreement: Disagreement
    has_gold: bool


def pack_run(run_dir: Path) -> Explorer | None:
    """The explorer's data of a run; None for one without a ledger. Raises ProblemError for a ledger that cannot be read, and
    ReportError for such rollouts."""
    if not any((run_dir / FOLDER).glob("step-*.parquet")):
        return None
    pieces, places = Pieces(), dict[str, int]()
    rows = read_ledger(run_dir)
    steps: list[int] = []
    views: tuple[str, ...] = ()
    table: Disagreement | None = None
    has_gold = False
    for step, group in groupby(rows, key=lambda row: row.step):
        held = list(group)
        if table is None:
            views, names = held[0].views, list(held[0].verdicts)
            table = Disagreement(names, np.zeros((len(names), len(names)), dtype=np.int64))
        for row in held:
            table.add(row)
            has_gold |= row.mark is not None
        steps.append(step)
        pieces.add(f"votes-{step}", _votes(held, places))
    assert table is not None
    questions = _questions(run_dir, places)
    texts = _add_texts(run_dir, steps, places, views, pieces)
    about = {"views": views, "selectors": [USED, *table.names], "steps": steps, "ids": list(places), "texts": texts}
    pieces.add("index", {**about, "questions": [_cut(questions.get(key, ""), QUESTION_CHARS)[0] for key in places]})
    return Explorer(pieces, len(places), len(steps), table, has_gold)


def _votes(rows: Sequence[LedgerRow], places: dict[str, int]) -> dict[str, Any]:
    """One step in columns over its problems: `p` their numbers, `n` samples [V], `k` counts [C][V], `a` answers [C], `g` gold or
    null, `r` [C] which are right or null, `s` the used scores [C] (null where views are judged apart), and `l` by selector the
    label (-1: none), or a list over views where these differ."""
    for row in rows:
        places.setdefault(row.problem_id, len(places))
    names = list(rows[0].verdicts)
    return {
        "p": [places[row.problem_id] for row in rows],
        "n": [row.num_samples.tolist() for row in rows],
        "k": [row.counts.tolist() for row in rows],
        "a": [[_cut(text, ANSWER_CHARS)[0] for text in row.representatives] for row in rows],
        "g": [None if row.mark is None else _cut(row.mark.gold, ANSWER_CHARS)[0] for row in rows],
        "r": [None if row.mark is None else row.mark.right.astype(int).tolist() for row in rows],
        "s": [None if row.used.scores.ndim > 1 else [_finite(s) for s in row.used.scores] for row in rows],
        "l": {
            USED: [_label(row.used) for row in rows],
            **{name: [_label(row.verdicts[name]) for row in rows] for name in names},
        },
    }


def _label(verdict: Verdict) -> int | list[int]:
    labels = [-1 if label is None else label for label in verdict.label]
    return labels[0] if len(set(labels)) == 1 else labels


def _finite(score: float) -> float | None:
    return round(float(score), 4) if np.isfinite(score) else None


def _cut(text: str, limit: int) -> tuple[str, int]:
    """A text as it is shown: so far, and with its invisible signs named; and its whole length if that is more, else 0."""
    named = _INVISIBLE.sub(lambda sign: f"⟨U+{ord(sign[0]):04X}⟩", text[:limit])
    return (named, 0) if len(text) <= limit else (f"{named} …", len(text))


def _questions(run_dir: Path, wanted: Mapping[str, int]) -> dict[str, str]:
    """The problems' texts by id, out of the recorded rollouts; those that were never recorded are missing."""
    found: dict[str, str] = {}
    for path in sorted((run_dir / "rollouts").glob("step-*.parquet")):
        if len(found) == len(wanted):
            break
        ids, texts = _columns(path, ["problem_id", "question"])
        found |= dict(zip(ids, texts, strict=True))
    return found


def _columns(path: Path, names: list[str]) -> list[list[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=names)
        return [table.column(name).to_pylist() for name in names]
    except (OSError, KeyError, pa.ArrowException) as e:
        raise ReportError(f"'{path}' cannot be read as recorded rollouts ({brief(e)}): is the file whole?") from e


def spread(steps: Sequence[int]) -> list[int]:
    """The last, the first, then those that halve the gaps: wherever one stops, the steps are spread over the run."""
    out, gaps = list(dict.fromkeys([steps[-1], steps[0]])), [(0, len(steps) - 1)]
    for low, high in gaps:  # grows while it is walked through
        middle = (low + high) // 2
        if low < middle < high:
            out.append(steps[middle])
            gaps += [(low, middle), (middle, high)]
    return out


def _add_texts(
    run_dir: Path, steps: Sequence[int], places: Mapping[str, int], views: Sequence[str], pieces: Pieces
) -> dict[int, list[tuple[str, list[int]]]]:
    """Packs texts until TEXT_BYTES are reached: first one response for every answer of each view, step after step in the order of
    `spread`, then the others. Gives by step the pieces' names with the problems that are in them."""
    known: dict[int, list[tuple[str, list[int]]]] = {}
    limit = pieces.num_bytes + TEXT_BYTES
    for is_example in (True, False):
        for step in spread(steps):
            path = run_dir / "rollouts" / f"step-{step:06d}.parquet"
            if not path.is_file():
                continue
            for problems, value in _text_pieces(path, places, views, is_example):
                text, name = packed(value), f"texts-{step}-{len(known.get(step, []))}"
                if pieces.num_bytes + len(text) > limit:
                    return known
                pieces.put(name, text)
                known.setdefault(step, []).append((name, problems))
    return known


_TEXT_COLUMNS = ["problem_id", "view", "sample", "cluster", "answer", "reward", "num_tokens", "finish_reason"]
_TEXT_COLUMNS += ["response", "draft", "rewritten"]


def _text_pieces(
    path: Path, places: Mapping[str, int], views: Sequence[str], is_example: bool
) -> Iterator[tuple[list[int], dict[int, list[Any]]]]:
    """A step's texts in pieces of about PIECE_CHARS, each with its problems: by problem rows of view, sample, cluster, answer,
    reward, tokens, whether cut off, then response, draft and rewording as (text, whole length if cut)."""
    held: dict[int, list[Any]] = {}
    size, seen = 0, set[tuple[str, str, int]]()
    for row in zip(*_columns(path, _TEXT_COLUMNS), strict=True):
        problem_id, view, sample, cluster, answer, reward, tokens, finish, response, draft, rewritten = row
        is_first = (problem_id, view, cluster) not in seen
        seen.add((problem_id, view, cluster))
        if response is None or is_first is not is_example or problem_id not in places:
            continue
        place = places[problem_id]
        if size > PIECE_CHARS and place not in held:
            yield list(held), held
            held, size = {}, 0
        extra = None if rewritten is None or rewritten in response else _cut(rewritten, TEXT_CHARS)
        texts = (_cut(response, TEXT_CHARS), None if draft is None else _cut(draft, TEXT_CHARS), extra)
        figures = (None if reward is None or not np.isfinite(reward) else round(reward, 4), tokens, finish == "length")
        shown = None if answer is None else _cut(answer, ANSWER_CHARS)[0]
        held.setdefault(place, []).append((views.index(view), sample, cluster, shown, *figures, *texts))
        size += sum(len(text[0]) for text in texts if text is not None)
    if held:
        yield list(held), held
