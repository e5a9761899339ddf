"""`harmonyray data prepare`: any problem source as the normal form, questions in one file and gold answers in another.

A question's row: `id`, `question`, `kind`, and where there are any `choices`, `category`, `rewordings` (by name). A gold row:
`id`, `answer`. The file source reads both without being told a column.
"""

from __future__ import annotations

import json
import re
import string
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harmonyray.errors import ConfigError, ProblemError, UserError
from harmonyray.files import whole_file
from harmonyray.problems.naming import named_source
from harmonyray.records import RecordWriter, check_folder
from harmonyray.registry import make_options, resolve
from harmonyray.types import Problem

_JSONL = (".jsonl", ".ndjson")
_KIND = "problems"


@dataclass(frozen=True, slots=True)
class PrepareRequest:
    """`name`: a file, a source's type, or a benchmark. `options` of the source; `limit`: the first so many problems. `force`:
    replace files that are there."""

    name: str
    out: str
    options: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    force: bool = False


def run_prepare(request: PrepareRequest) -> dict[str, Any]:
    """Writes the questions to `out` and the gold answers beside it; each file appears when both are whole.

    Gives `out, gold (None where the source has none), num_problems, num_gold, kinds, categories, notes (on answers that look
    misread), wall_seconds`. Raises UserError for a source that cannot be read, and for files that cannot be written or are there
    already.
    """
    begun = time.perf_counter()
    questions = Path(request.out).expanduser()
    answers = questions.with_name(f"{questions.stem}.gold.jsonl")
    kind, named = named_source(request.name)
    options = {**named, **request.options} | ({} if request.limit is None else {"limit": request.limit})
    _check_outputs(request, questions, answers, str(options.get("path", "")))
    try:
        source = resolve(_KIND, kind)(make_options(_KIND, kind, _KIND, options))
        problems, gold = source.problems(), source.gold()
    except UserError as e:
        raise type(e)(_as_typed(str(e), kind)) from e
    ids = {p.id for p in problems}
    unknown = [problem_id for problem_id in gold if problem_id not in ids]
    if unknown:
        raise ProblemError(f"{request.name}: gold() has {unknown[0]!r}, which problems() has not; expected the same ids in both")
    rows = {questions: [question_row(p) for p in problems]}
    if gold:
        rows[answers] = [{"id": p.id, "answer": gold[p.id].text} for p in problems if p.id in gold]
    with ExitStack() as renames:  # both are on the disk before either takes its name
        for path, of_file in rows.items():
            with RecordWriter(str(renames.enter_context(whole_file(path)))) as writer:
                writer.write(of_file)
    if not gold:
        answers.unlink(missing_ok=True)  # of the questions that --force has replaced
    return {
        "out": str(questions),
        "gold": str(answers) if gold else None,
        "num_problems": len(problems),
        "num_gold": len(gold),
        "kinds": dict(sorted(Counter(p.kind for p in problems).items())),
        "categories": dict(sorted(Counter(p.category for p in problems if p.category).items())),
        "notes": _notes(problems, [g.text for g in gold.values()]),
        "wall_seconds": time.perf_counter() - begun,
    }


def _as_typed(message: str, kind: str) -> str:
    """A message with the source's options as this command takes them, which a configuration has under `problems`."""
    options = "|".join(resolve(_KIND, kind).Options.model_fields)
    named = re.sub(rf"(?<=option ')problems\.|(?<=value for ')problems\.|\bproblems\.(?=({options})\b)", "-o ", message)
    return named.replace("-o limit", "--limit")


def _notes(problems: Sequence[Problem], answers: Sequence[str]) -> list[str]:
    """What looks like a column that was read for something else."""
    notes = []
    derivations = sum("####" in answer for answer in answers)
    if derivations:
        notes.append(f"{derivations} gold answers contain '####': set answer_after='####', or no answer will equal them")
    letters = all(len(answer) == 1 and answer in string.ascii_uppercase for answer in answers)
    if answers and letters and not any(problem.choices for problem in problems) and {p.kind for p in problems} != {"choice"}:
        notes.append(
            "every gold answer is a letter, but no problem has choices: name their column (options_column), or set kind=choice "
            "if the questions hold them"
        )
    return notes


def question_row(problem: Problem) -> dict[str, Any]:
    """A problem in the normal form, ready for JSON."""
    row: dict[str, Any] = {"id": problem.id, "question": problem.text, "kind": problem.kind}
    if problem.choices:
        row["choices"] = list(problem.choices)
    if problem.category:
        row["category"] = problem.category
    if problem.rewordings:
        row["rewordings"] = dict(problem.rewordings)
    return row


def describe_prepare(summary: Mapping[str, Any]) -> str:
    """The summary for a person, with the lines of YAML that read the files back."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in summary["kinds"].items())
    lines = [
        f"{summary['num_problems']} problems ({kinds}), {summary['num_gold']} with a gold answer, {summary['wall_seconds']:.1f} s"
    ]
    if summary["categories"]:
        lines.append("categories: " + ", ".join(f"{name} ({count})" for name, count in summary["categories"].items()))
    lines += [f"note: {note}" for note in summary["notes"]]
    gold = f", gold_path: {json.dumps(summary['gold'])}" if summary["gold"] else ""
    return "\n".join([*lines, f"problems: {{type: file, path: {json.dumps(summary['out'])}{gold}}}"])


def _check_outputs(request: PrepareRequest, questions: Path, answers: Path, source: str) -> None:
    if questions.suffix.lower() not in _JSONL:
        raise ConfigError(f"--out {request.out!r}: expected a name ending in .jsonl or .ndjson")
    for path in (questions, answers):
        check_folder("--out", path)
        if source and path.exists() and Path(source).expanduser().exists() and path.samefile(Path(source).expanduser()):
            raise ConfigError(f"--out {request.out!r} would replace the input {source!r}: name another file")
        if (path.exists() or path.is_symlink()) and not request.force:
            raise ConfigError(f"--out: {path} is there already: name another file, or replace it with --force")
