"""What the tests of the hub source share: data sets with the columns the hub has, as local folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harmonyray.problems.hub import HubSource
from harmonyray.problems.presets import PRESETS

CANARY = "canary-77c1"

SCHEMAS: dict[str, list[dict[str, Any]]] = {
    "math500": [
        {"problem": problem, "solution": CANARY, "answer": answer, "subject": subject, "level": level, "unique_id": unique_id}
        for problem, answer, subject, level, unique_id in (
            ("1+1?", "2", "Algebra", 5, "test/algebra/1.json"),
            ("2+2?", "4", "Geometry", 1, "test/geometry/2.json"),
            ("3+3?", "6", "Algebra", 4, "test/algebra/3.json"),
        )
    ],
    "gsm8k": [
        {"question": "Eggs?", "answer": f"{CANARY} 9*2=<<9*2=18>>18\n#### 18"},
        {"question": "Bolts?", "answer": f"{CANARY} #### is not it\n#### 2,125"},
    ],
    "aime2024": [
        {"id": 60, "problem": "Walk?", "solution": CANARY, "answer": "204", "url": "u", "year": "2024"},
        {"id": 61, "problem": "Logs?", "solution": CANARY, "answer": "025", "url": "u", "year": "2024"},
    ],
    "amc": [
        {"id": 0, "problem": "m+n?", "answer": 142.0, "url": "u"},
        {"id": 1, "problem": "Half?", "answer": 0.5, "url": "u"},
    ],
    "gpqa_diamond": [
        {
            "Record ID": f"rec{i}",
            "Question": f"Which {i}?",
            "Correct Answer": f"right {i}\n",
            "Incorrect Answer 1": "one",
            "Incorrect Answer 2": "two",
            "Incorrect Answer 3": "three",
            "High-level domain": "Physics" if i % 2 else "Biology",
            "Subdomain": "Optics",
            "Explanation": CANARY,
        }
        for i in range(40)
    ],
    "mmlu_pro": [
        {
            "question_id": 70,
            "question": "Typical?",
            "options": ["a", "b", "c"],
            "answer": "C",
            "answer_index": 2,
            "cot_content": CANARY,
            "category": "computer science",
            "src": "ori",
        }
    ],
}  # fmt: skip


def folder(at: Path, rows: list[dict[str, Any]], split: str = "test", parquet: bool = True) -> Path:
    """A data set as the hub keeps them: one file for a split."""
    at.mkdir(exist_ok=True)
    if parquet:
        pq.write_table(pa.Table.from_pylist(rows), at / f"{split}-00000-of-00001.parquet")
    else:
        (at / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return at


def preset(tmp_path: Path, name: str, parquet: bool = True, **options: Any) -> HubSource:
    at = folder(tmp_path / name, SCHEMAS[name], PRESETS[name]["split"], parquet)
    return hub(name=name, dataset=str(at), **options)


def hub(**options: Any) -> HubSource:
    return HubSource(HubSource.Options(**options))
