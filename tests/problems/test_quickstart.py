"""The quickstart task by hand-worked examples, the shipped problem files, and the shipped model."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from harmonyray.errors import ProblemError
from harmonyray.problems import quickstart, quickstart_task
from harmonyray.problems.quickstart import ASSETS, MODEL_DIR, QuickstartSource
from harmonyray.problems.quickstart_task import Mistakes, Question

Q52_37, Q58_37, Q52_47, Q98_81 = Question(52, 37), Question(58, 37), Question(52, 47), Question(98, 81)
NO_MISTAKES = Mistakes(0.0, 0.0, 0.0, (0.25, 0.25, 0.25, 0.25), 0.0, 0.0, 0.0, 0.0, 0.0)


def source(limit: int | None = None) -> QuickstartSource:
    return QuickstartSource(QuickstartSource.Options(limit=limit))


# --- the questions ---------------------------------------------------------------------------------------------------


def test_there_are_2916_questions_of_which_1296_need_a_borrow() -> None:
    questions = quickstart_task.all_questions()
    assert len(questions) == len(set(questions)) == 2916
    assert sum(q.needs_borrow for q in questions) == 1296
    assert all(q.a // 10 > q.b // 10 >= 1 and q.a % 10 and q.b % 10 for q in questions)


def test_held_out_questions_are_half_borrow_and_in_no_lesson() -> None:
    held_out = quickstart_task.held_out_questions()
    assert len(set(held_out)) == 192
    assert sum(q.needs_borrow for q in held_out) == 96
    taught = quickstart_task.lesson_questions()
    assert len(taught) == 2916 - 192
    assert not set(taught) & set(held_out)


@pytest.mark.parametrize(("borrow", "plain"), [(77, 51), (45, 83)])
def test_unlabeled_sets_are_held_out_and_have_the_asked_split(borrow: int, plain: int) -> None:
    chosen = quickstart_task.unlabeled_questions(borrow, plain)
    assert len(set(chosen)) == 128
    assert sum(q.needs_borrow for q in chosen) == borrow
    assert set(chosen) <= set(quickstart_task.held_out_questions())


# --- working out, right and wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "question", "rewrite", "solution"),
    [
        ("columns", Q52_37, "52-37", r"12-7=5 4-3=1 \boxed{15}"),
        ("columns", Q58_37, "58-37", r"8-7=1 5-3=2 \boxed{21}"),
        ("columns", Q52_47, "52-47", r"12-7=5 4-4=0 \boxed{5}"),
        ("smaller_from_larger", Q52_37, "52-37", r"7-2=5 5-3=2 \boxed{25}"),
        ("smaller_from_larger", Q58_37, "58-37", r"8-7=1 5-3=2 \boxed{21}"),
        ("count_up", Q52_37, "37+?=52", r"+3+10+2=15 \boxed{15}"),
        ("count_up", Q58_37, "37+?=58", r"+3+10+8=21 \boxed{21}"),
        ("count_up", Q52_47, "47+?=52", r"+3+2=5 \boxed{5}"),
        ("forgets_last_hop", Q52_37, "37+?=52", r"+3+10=13 \boxed{13}"),
        ("forgets_last_hop", Q52_47, "47+?=52", r"+3=3 \boxed{3}"),
        ("shift", Q52_37, "55-40", r"5-0=5 5-4=1 \boxed{15}"),
        ("shift", Q58_37, "61-40", r"1-0=1 6-4=2 \boxed{21}"),
        ("shift", Q98_81, "107-90", r"7-0=7 10-9=1 \boxed{17}"),
        ("shifts_second_only", Q52_37, "52-40", r"2-0=2 5-4=1 \boxed{12}"),
        ("shifts_second_only", Q58_37, "58-40", r"8-0=8 5-4=1 \boxed{18}"),
        ("split", Q52_37, "52-30-7", r"22-7=15 \boxed{15}"),
        ("split", Q52_47, "52-40-7", r"12-7=5 \boxed{5}"),
        ("splits_smaller_from_larger", Q52_37, "52-30-7", r"22-7=25 \boxed{25}"),
    ],
)
def test_worked_examples(way: str, question: Question, rewrite: str, solution: str) -> None:
    worked = getattr(quickstart_task, way)(question)
    assert (worked.rewrite, worked.solution) == (rewrite, solution)


def test_every_right_way_is_right_and_every_error_wrong_on_all_borrow_questions() -> None:
    for q in quickstart_task.all_questions():
        for right, wrong in quickstart_task.STRATEGIES.values():
            assert right(q).answer == str(q.answer)
            if q.needs_borrow:
                assert wrong(q).answer != str(q.answer)


def test_only_split_and_copy_share_the_solvers_misconception() -> None:
    wrong = {name: error(Q52_37).answer for name, (_, error) in quickstart_task.STRATEGIES.items()}
    assert wrong == {"count up": "13", "shift": "12", "split": "25", "copy": "25"}


def test_a_slip_changes_one_digit_of_one_result_and_the_answer_follows() -> None:
    rng = random.Random(0)
    seen = {quickstart_task.slip(quickstart_task.split(Q52_37), rng).answer for _ in range(400)}
    assert seen == {"10", "11", "12", "13", "14", "16", "17", "18", "19", "25", "35", "45", "55", "65", "75", "85", "95"}
    slipped = quickstart_task.slip(quickstart_task.columns(Q52_37), rng)
    (_, ones), (_, tens) = slipped.lines
    assert (ones == "5") != (tens == "1")
    assert slipped.answer == str(int(tens + ones))


# --- lessons ---------------------------------------------------------------------------------------------------------


def test_lessons_without_mistakes_are_the_right_ways() -> None:
    rng = random.Random(0)
    assert quickstart_task.solver_lesson(Q52_37, NO_MISTAKES, rng) == r"12-7=5 4-3=1 \boxed{15}"
    seen = {quickstart_task.reframer_lesson(Q52_37, NO_MISTAKES, rng) for _ in range(100)}
    assert seen == {
        "STRATEGY: count up\nREWRITTEN PROBLEM: 37+?=52\nSOLUTION: +3+10+2=15 \\boxed{15}",
        "STRATEGY: shift\nREWRITTEN PROBLEM: 55-40\nSOLUTION: 5-0=5 5-4=1 \\boxed{15}",
        "STRATEGY: split\nREWRITTEN PROBLEM: 52-30-7\nSOLUTION: 22-7=15 \\boxed{15}",
        "STRATEGY: copy\nREWRITTEN PROBLEM: 52-37\nSOLUTION: 12-7=5 4-3=1 \\boxed{15}",
    }


def test_a_malformed_lesson_leaves_the_rewording_out() -> None:
    worked = quickstart_task.split(Q52_37)
    assert quickstart_task.write_reframed("split", None, worked) == "STRATEGY: split\nSOLUTION: 22-7=15 \\boxed{15}"


def test_lessons_have_the_taught_share_of_the_misconception() -> None:
    rng = random.Random(0)
    texts = [quickstart_task.solver_lesson(Q52_37, Mistakes(), rng) for _ in range(4000)]
    assert sum(r"\boxed{25}" in t for t in texts) / 4000 == pytest.approx(0.62 * 0.9, abs=0.03)
    plain = [quickstart_task.solver_lesson(Q58_37, Mistakes(), rng) for _ in range(4000)]
    assert sum(r"\boxed{21}" in t for t in plain) / 4000 == pytest.approx(1 - Mistakes().slip_plain, abs=0.03)


def test_lessons_are_reproducible_and_half_of_each_view() -> None:
    questions = quickstart_task.lesson_questions()
    first, again = (quickstart_task.lessons(questions, 5, Mistakes(), random.Random(3)) for _ in range(2))
    assert first == again
    assert [len(rows) for rows in first] == [5, 5]
    assert all(re.fullmatch(r"SOLVE: \d\d-\d\d\n", prompt) for prompt, _ in first[0])
    assert all(re.fullmatch(r"REFRAME: \d\d-\d\d\n", prompt) for prompt, _ in first[1])


@pytest.mark.parametrize("mistakes", quickstart_task.REGIMES.values(), ids=quickstart_task.REGIMES.keys())
def test_regimes_are_probabilities(mistakes: Mistakes) -> None:
    assert sum(mistakes.shares) == pytest.approx(1.0)


# --- the shipped files -----------------------------------------------------------------------------------------------


def test_the_questions_file_holds_no_gold() -> None:
    rows = [json.loads(line) for line in (ASSETS / "questions.jsonl").read_text().splitlines()]
    assert len(rows) == 128
    assert all(set(row) == {"id", "question"} and row["id"] == row["question"] for row in rows)
    assert all(re.fullmatch(r"\d\d-\d\d", row["question"]) for row in rows)


def test_source_reads_the_unlabeled_set_and_its_gold_apart() -> None:
    problems, gold = source().problems(), source().gold()
    assert [p.text for p in problems] == [q.text for q in quickstart_task.unlabeled_questions()]
    assert list(gold) == [p.id for p in problems]
    assert [p.category for p in problems].count("borrow") == 77
    for p in problems:
        a, b = p.text.split("-")
        assert gold[p.id].problem_id == p.id
        assert gold[p.id].text == str(int(a) - int(b))


@pytest.mark.parametrize("limit", [None, 3])
def test_a_rewording_is_another_question_of_the_task_and_none_that_ships(limit: int | None) -> None:
    """With a held-out part, the rewording of a problem that is trained on could else be a held-out problem."""
    shipped = {(q.a, q.b) for q in quickstart_task.unlabeled_questions()}
    task = {(q.a, q.b) for q in quickstart_task.all_questions()}
    problems = source(limit).problems()
    assert {p.id: p.rewordings for p in source().problems()[: len(problems)]} == {p.id: p.rewordings for p in problems}
    for p in problems:
        (a, b), (x, y) = (tuple(map(int, text.split("-"))) for text in (p.text, p.rewordings["shifted"]))
        assert (x, y) in task - shipped
        assert x - y == a - b
        nearer = [(a + k, b + k) for k in range(-abs(x - a) + 1, abs(x - a))]
        assert not set(nearer) & (task - shipped), "the nearest is taken"


def test_a_shipped_question_is_passed_over() -> None:
    (reworded,) = [p.rewordings["shifted"] for p in source().problems() if p.text == "74-34"]
    assert reworded == "73-33"  # 75-35 is as near, and ships


def test_limit_keeps_the_first_questions() -> None:
    assert [p.id for p in source(3).problems()] == [p.id for p in source().problems()[:3]]
    assert len(source(3).gold()) == 3
    with pytest.raises(ValidationError):
        source(0)


def test_a_missing_file_is_the_users_to_repair(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(quickstart, "ASSETS", tmp_path)
    with pytest.raises(ProblemError, match=r"questions\.jsonl"):
        source().problems()


# --- the shipped model -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL_DIR, local_files_only=True)


def test_model_files_are_small() -> None:
    files = list(MODEL_DIR.iterdir())
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= {f.name for f in files}
    assert sum(f.stat().st_size for f in files) <= 4 * 2**20


def test_model_loads_and_has_the_stated_size() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, local_files_only=True)
    assert sum(p.numel() for p in model.parameters()) == 299_040
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config.max_position_embeddings == 512
    assert model.config.tie_word_embeddings


def test_vocabulary_is_the_34_words_in_the_tasks_order(tokenizer) -> None:  # type: ignore[no-untyped-def]
    words = (*quickstart_task.SPECIAL_TOKENS, *quickstart_task.TEXT_TOKENS)
    assert len(tokenizer) == len(words) == 34
    assert tokenizer.convert_ids_to_tokens(list(range(34))) == list(words)
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2, 3)


def test_tokenizer_gives_the_text_back(tokenizer) -> None:  # type: ignore[no-untyped-def]
    ids = tokenizer.encode("SOLVE: 52-37\n", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["SOLVE: ", "5", "2", "-", "3", "7", "\n"]
    rng = random.Random(0)
    pairs = [p for rows in quickstart_task.lessons(quickstart_task.all_questions(), 50, Mistakes(), rng) for p in rows]
    for prompt, response in pairs:
        text = prompt + response
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True) == text
        assert tokenizer.unk_token_id not in ids
        assert ids == tokenizer.encode(prompt, add_special_tokens=False) + tokenizer.encode(response, add_special_tokens=False)


def test_foreign_text_tokenizes_with_one_unk_per_run(tokenizer) -> None:  # type: ignore[no-untyped-def]
    ids = tokenizer.encode("Über 12", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<unk>", " ", "1", "2"]
    assert tokenizer.encode("Let $x^2+1=0$.", add_special_tokens=False)
    assert tokenizer.encode("", add_special_tokens=False) == []


def test_responses_have_the_stated_lengths(tokenizer) -> None:  # type: ignore[no-untyped-def]
    """17 tokens for the solver and 25 to 30 for the reframer, before the end token."""
    assert len(tokenizer.encode(quickstart_task.columns(Q52_37).solution, add_special_tokens=False)) == 17
    for name, (right, _) in quickstart_task.STRATEGIES.items():
        worked = right(Q52_37)
        text = quickstart_task.write_reframed(name, worked.rewrite, worked)
        assert 25 <= len(tokenizer.encode(text, add_special_tokens=False)) <= 30
