"""The hub source, through the real `datasets.load_dataset` on local folders and files with the columns the hub has."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_helpers import CANARY, SCHEMAS, folder, hub, preset

from harmonyray.errors import ProblemError
from harmonyray.problems.file import FileSource
from harmonyray.problems.hub import HubSource
from harmonyray.problems.presets import PRESETS
from harmonyray.registry import make_options, resolve
from harmonyray.types import GoldAnswer, Problem

BENCH = Path(__file__).resolve().parents[3] / "shared" / "data" / "bench"

pytestmark = pytest.mark.usefixtures("own_cache")

# --- presets ---


@pytest.mark.parametrize("parquet", [True, False])
def test_math500(tmp_path: Path, parquet: bool) -> None:
    source = preset(tmp_path, "math500", parquet)
    assert source.problems() == [
        Problem("test/algebra/1.json", "1+1?", category="level 5"),
        Problem("test/geometry/2.json", "2+2?", category="level 1"),
        Problem("test/algebra/3.json", "3+3?", category="level 4"),
    ]
    assert {k: g.text for k, g in source.gold().items()} == {
        "test/algebra/1.json": "2",
        "test/geometry/2.json": "4",
        "test/algebra/3.json": "6",
    }


@pytest.mark.parametrize(
    ("only", "texts"),
    [({"level": 5}, ["1+1?"]), ({"level": [4, 5]}, ["1+1?", "3+3?"]), ({"subject": "Algebra", "level": "4"}, ["3+3?"])],
)
def test_math500_by_level_and_subject(tmp_path: Path, only: dict[str, Any], texts: list[str]) -> None:
    source = preset(tmp_path, "math500", only=only, category_column="subject")
    assert [p.text for p in source.problems()] == texts
    assert {p.category for p in source.problems()} <= {"Algebra", "Geometry"}
    assert list(source.gold()) == [p.id for p in source.problems()]
    assert [p.text for p in preset(tmp_path, "math500", only=only, limit=1).problems()] == texts[:1]


def test_gsm8k_gold_is_what_follows_the_hashes(tmp_path: Path) -> None:
    source = preset(tmp_path, "gsm8k")
    assert source.problems() == [Problem("gsm8k/test/0", "Eggs?"), Problem("gsm8k/test/1", "Bolts?")]
    assert source.gold() == {
        "gsm8k/test/0": GoldAnswer("gsm8k/test/0", "18"),
        "gsm8k/test/1": GoldAnswer("gsm8k/test/1", "2,125"),
    }


def test_aime_and_amc(tmp_path: Path) -> None:
    aime, amc = preset(tmp_path, "aime2024"), preset(tmp_path, "amc")
    assert aime.problems() == [Problem("60", "Walk?"), Problem("61", "Logs?")]
    assert {k: g.text for k, g in aime.gold().items()} == {"60": "204", "61": "025"}
    assert {k: g.text for k, g in amc.gold().items()} == {"0": "142", "1": "0.5"}


def test_mmlu_pro(tmp_path: Path) -> None:
    source = preset(tmp_path, "mmlu_pro")
    assert source.problems() == [Problem("70", "Typical?", "choice", ("a", "b", "c"), "computer science")]
    assert source.gold() == {"70": GoldAnswer("70", "C")}
    by_position = preset(tmp_path, "mmlu_pro", answer_column="answer_index", answer_index_from=0)
    assert by_position.gold() == source.gold()


def test_gpqa_choices_are_mixed_by_id_and_gold_follows(tmp_path: Path) -> None:
    source = preset(tmp_path, "gpqa_diamond")
    problems, gold = source.problems(), source.gold()
    assert {p.kind for p in problems} == {"choice"}
    assert [p.category for p in problems[:2]] == ["Biology", "Physics"]
    for i, p in enumerate(problems):
        assert sorted(p.choices) == sorted(["one", "two", "three", f"right {i}"])
        assert p.choices["ABCD".index(gold[p.id].text)] == f"right {i}"
    assert {g.text for g in gold.values()} == set("ABCD")
    turned = folder(tmp_path / "turned", SCHEMAS["gpqa_diamond"][::-1], "train")
    again = hub(name="gpqa_diamond", dataset=str(turned))
    assert (again.problems(), again.gold()) == (problems[::-1], gold)


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_gpqa_order_is_the_same_in_every_process(tmp_path: Path, hash_seed: str) -> None:
    code = (
        "from harmonyray.problems.columns import mixed_choices\nfrom harmonyray.problems.rows import Row\n"
        "row = Row('x', 'row 1', {'a': 'A', 'b': 'B', 'c': 'C', 'd': 'D'}, 'abcd')\n"
        "print(*(''.join(mixed_choices(row, f'rec{i}', 'a', 'bcd')[0]) for i in range(6)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed}
    )
    assert done.stdout.split() == ["ABCD", "BDCA", "CABD", "CADB", "DBCA", "CABD"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_problems_hold_no_gold(tmp_path: Path, name: str) -> None:
    source = preset(tmp_path, name)
    source.gold()
    stack, seen, texts = [source, source.problems()], set(), []
    while stack:
        item = stack.pop()
        if id(item) not in seen and not isinstance(item, type) and type(item).__name__ not in ("module", "function"):
            seen.add(id(item))
            texts += [item] if isinstance(item, str) else []
            stack.extend(gc.get_referents(item))
    assert any(t.endswith("?") for t in texts)
    assert not any(CANARY in t for t in texts)


def test_every_preset_names_options_that_there_are() -> None:
    for name, values in PRESETS.items():
        assert set(values) <= set(HubSource.Options.model_fields), name
        options = make_options("problems", "hub", "problems", {"name": name})
        assert options.model_dump(exclude_none=True) == {"name": name}  # a later name is not held back by an earlier preset
    assert resolve("problems", "hub") is HubSource


# --- any data set ---


def test_any_columns_config_and_split(tmp_path: Path) -> None:
    rows = [{"key": "x", "ask": "Which?", "opts": ["no", "yes"], "label": 2, "again": "Which one?", "tier": "hard"}]
    at = folder(tmp_path / "own", rows, "dev")
    (at / "README.md").write_text("---\nconfigs:\n- config_name: second\n  data_files:\n  - split: dev\n    path: dev-*\n---\n")
    options: dict[str, Any] = {
        "dataset": str(at),
        "config": "second",
        "id_column": "key",
        "question_column": "ask",
        "options_column": "opts",
        "answer_column": "label",
        "answer_index_from": 1,
        "category_column": "tier",
        "rewording_columns": ["again"],
    }
    for split in (None, "dev"):
        source = hub(**options, split=split)
        assert source.problems() == [Problem("x", "Which?", "choice", ("no", "yes"), "hard", {"again": "Which one?"})]
        assert source.gold() == {"x": GoldAnswer("x", "B")}
    with pytest.raises(ProblemError, match="no configuration 'third'"):
        hub(**{**options, "config": "third"}).problems()


def test_a_file_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "1+1?", "answer": 2}\n{"question": "2+2?", "answer": 4}\n')
    source = hub(dataset=str(path))
    assert source.problems() == [Problem("mine/train/0", "1+1?"), Problem("mine/train/1", "2+2?")]
    assert [g.text for g in source.gold().values()] == ["2", "4"]
    path.write_text('{"question": "1+1?"}\n')
    assert hub(dataset=str(path)).gold() == {}


@pytest.mark.parametrize("name", ["gsm8k_test", "mmlu_pro_1400", "math500"])
def test_real_rows_read_as_from_a_file(name: str) -> None:
    path = BENCH / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"the shared data is not here: {path}")
    source, file = hub(dataset=str(path)), FileSource(FileSource.Options(path=str(path)))
    assert source.problems() == file.problems()
    assert source.gold() == file.gold()
