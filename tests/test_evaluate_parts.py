"""Named parts and chunks of an evaluation, what it asks of each view, what it tells while it runs, and choice letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from eval_helpers import CHUNK, ByText, Echo, Script
from run_helpers import write_rows

from harmonyray.answers.grader import AnswerGrader
from harmonyray.evaluate import EvalSettings, Evaluator, Graded
from harmonyray.problems.file import FileSource
from harmonyray.types import GoldAnswer, Problem, SampleRequest, Sampling
from harmonyray.views.reframer import Reframer
from harmonyray.views.solver import Solver

HOT = Sampling(max_tokens=8, temperature=0.8, top_p=0.95)
IDS = [f"p{i}" for i in range(7)]
# p0 to p3 are adapted to, and right twice as often as the others.
LINES = {(i, "solver"): ("1 1 0 -" if i < "p4" else "1 0 0 0", "1" if i < "p4" else "0") for i in IDS}


def problems(ids: Sequence[str]) -> list[Problem]:
    return [Problem(i, "?", category="even" if int(i[1]) % 2 == 0 else "odd") for i in ids]


def make(chunk: int, **parts: list[Problem]) -> tuple[Evaluator, Script]:
    script, views = Script(LINES), [Echo("solver")]
    gold = {i: GoldAnswer(i, "1") for i in IDS}
    return Evaluator(parts, gold, views, script, ByText(views), EvalSettings(4, [HOT], 0, chunk)), script


def test_parts_are_measured_apart_under_their_names() -> None:
    both, _ = make(CHUNK, eval=problems(IDS[:4]), holdout=problems(IDS[4:]))
    got = both.evaluate(0)
    assert (got["eval/solver/avg_at_k"], got["holdout/solver/avg_at_k"]) == (0.5, 0.25)
    assert (got["eval/solver/greedy"], got["holdout/solver/greedy"]) == (1, 0)
    assert (got["eval/num_problems"], got["holdout/num_problems"], got["holdout/num_problems/even"]) == (4, 3, 2)
    assert {name.split("/")[0] for name in got} == {"eval", "holdout"}
    # A part says the same alone: its draws, its resamples and its numbers are its own.
    alone, _ = make(CHUNK, holdout=problems(IDS[4:]))
    assert alone.evaluate(0) == {name: value for name, value in got.items() if name.startswith("holdout/")}


def test_a_problem_draws_alike_in_either_part() -> None:
    asked = []
    for part in ("eval", "holdout"):
        evaluator, script = make(CHUNK, **{part: problems(IDS)})
        evaluator.evaluate(0)
        asked.append([(r.prompt.problem_id, r.seeds) for r, _, _ in script.asked])
    assert asked[0] == asked[1]


def test_an_empty_part_is_left_out() -> None:
    evaluator, script = make(CHUNK, eval=problems(IDS), holdout=[Problem("x", "no gold")])
    assert {name.split("/")[0] for name in evaluator.evaluate(0)} == {"eval"}
    assert "x" not in {r.prompt.problem_id for r, _, _ in script.asked}
    assert make(CHUNK, eval=[])[0].evaluate(0) == {}


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 7, 100])
def test_chunks_change_what_is_held_and_nothing_else(chunk: int) -> None:
    parts = {"eval": problems(IDS[:4]), "holdout": problems(IDS[4:])}
    evaluator, script = make(chunk, **parts)
    told: list[tuple[int, int]] = []
    kept: list[Graded] = []
    scored = evaluator.score(0, lambda done, total: told.append((done, total)), kept.append)
    assert evaluator.metrics(scored) == make(CHUNK, **parts)[0].evaluate(0)
    # Two calls a chunk: the samples, then the greedy responses.
    sizes = [len(g.rollouts) for g in kept]
    assert [call["solver"] for call in script.calls] == sizes
    assert max(sizes) == min(chunk, 4)
    assert [g.greedy for g in kept] == [False, True] * (len(kept) // 2)
    assert [item.problem.id for g in kept if not g.greedy for item in g.rollouts] == IDS
    assert told[0] == (0, 7)
    assert told[-1] == (7, 7)
    assert [done for done, _ in told] == [0, *(sum(sizes[::2][: i + 1]) for i in range(len(sizes) // 2))]
    assert scored["eval"].categories == ("even", "odd", "even", "odd")


def test_each_view_is_sampled_in_its_own_way() -> None:
    cold = Sampling(max_tokens=99, temperature=0.8, top_p=0.95, stop=("\n\n",))
    views = [Echo("solver"), Echo("terse")]
    script = Script({("p0", "solver"): ("1 1 1 1", "1"), ("p0", "terse"): ("1 1 1 1", "1")})
    gold = {"p0": GoldAnswer("p0", "1")}
    Evaluator({"eval": problems(["p0"])}, gold, views, script, ByText(views), EvalSettings(4, [HOT, cold], 0, CHUNK)).evaluate(0)
    asked = [(r.prompt.view, s) for r, s, _ in script.asked]
    assert asked == [
        ("solver", HOT),
        ("terse", cold),
        ("solver", Sampling(8, temperature=0, top_p=1.0)),
        ("terse", Sampling(99, temperature=0, top_p=1.0, stop=("\n\n",))),
    ]


# --- choice letters ------------------------------------------------------------------------------------------------------------

GPQA_SHAPED = {"id": "g", "question": "Which is densest?\n\nA. d\nB. a\nC. b\nD. c", "answer": "D"}  # choices in the text
MMLU_PRO_SHAPED = {
    "id": "m",
    "question": "Which group is composed of fixists?",
    "options": [f"option {i}" for i in range(10)],
    "answer": "J",
    "category": "biology",
}
LETTERS = [
    # problem, what is said, the letter read, right
    ("g", r"The density rises, so \boxed{D}", "D", True),
    ("g", r"\boxed{\text{D}}", "D", True),
    ("g", "The answer is (D).", "D", True),
    ("g", r"\boxed{D. c}", "D", True),
    ("g", "Answer: B", "B", False),
    ("g", "I cannot tell.", None, False),
    ("m", r"\boxed{J}", "J", True),
    ("m", r"\boxed{j}", "J", True),
    ("m", "So the answer is A.", "A", False),
    ("m", r"\boxed{K}", None, False),  # there are ten choices
    ("m", "<think>It may be (A).</think> **J**", "J", True),
    ("m", "", None, False),
]


def letter_problems(tmp_path: Path) -> tuple[list[Problem], dict[str, GoldAnswer]]:
    """Both shapes as the file source reads them: letters in the text (`kind: choice`), and a list of options."""
    out: list[Problem] = []
    gold: dict[str, GoldAnswer] = {}
    for row in (GPQA_SHAPED, MMLU_PRO_SHAPED):
        path = write_rows(tmp_path / f"{row['id']}.jsonl", [row])
        source = FileSource(FileSource.Options(path=str(path), kind="choice"))
        out += source.problems()
        gold |= source.gold()
    return out, gold


class Says(Script):
    """Says whole texts, the same in every view: `said[problem][n]`, the first of them greedily."""

    def __init__(self, said: Mapping[str, Sequence[str]]) -> None:
        super().__init__({})
        self.said = said

    def texts(self, view: str, r: SampleRequest, sampling: Sampling) -> list[str]:
        return list(self.said[r.prompt.problem_id][: len(r.seeds)])


@pytest.mark.parametrize(("problem", "said", "letter", "right"), LETTERS)
def test_a_letter_is_read_and_graded(tmp_path: Path, problem: str, said: str, letter: str | None, right: bool) -> None:
    asked, gold = letter_problems(tmp_path)
    asked = [p for p in asked if p.id == problem]
    view = Solver("solver", Solver.Options())
    kept: list[Graded] = []
    with AnswerGrader([view]) as grader:
        evaluator = Evaluator(
            {"eval": asked}, gold, [view], Says({problem: [said] * 2}), grader, EvalSettings(2, [HOT], 0, CHUNK)
        )
        scored = evaluator.score(0, record=kept.append)
    assert kept[0].groups[0].read[0][0].answer == letter
    assert evaluator.metrics(scored)["eval/solver/avg_at_k"] == evaluator.metrics(scored)["eval/solver/greedy"] == float(right)


def test_letters_vote_over_two_views(tmp_path: Path) -> None:
    """Two real views and the real grader: spellings of a letter are one cluster, and the options are in the prompt."""
    asked, gold = letter_problems(tmp_path)
    views = [Solver("solver", Solver.Options()), Reframer("reframer", Reframer.Options())]
    said = {"g": [r"\boxed{D}", "The answer is (D)", r"\boxed{A}"], "m": [r"\boxed{A}", r"\boxed{J}", r"\boxed{\text{A}}"]}
    script = Says(said)
    with AnswerGrader(views) as grader:
        got = Evaluator({"eval": asked}, gold, views, script, grader, EvalSettings(3, [HOT, HOT], 0, CHUNK)).evaluate(0)
    assert got["eval/solver/avg_at_k"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert got["eval/majority_at_k"] == got["eval/harmonic_at_k"] == 0.5
    (prompt,) = {r.prompt.text for r, _, _ in script.asked if (r.prompt.problem_id, r.prompt.view) == ("m", "solver")}
    assert prompt is not None
    assert "J. option 9" in prompt
