"""Bombs among honest answers: the bombs are given up, the others get their verdicts, and nothing wrong is remembered."""

from __future__ import annotations

import pytest

from harmonyray.answers.charges import Charges, by_weight
from harmonyray.answers.cluster import cluster_answers
from harmonyray.answers.equivalence import Equivalence
from harmonyray.answers.workers import MathVerifyWorker, Reply, Task

B1 = r"\int_0^1 x^x \sin(x^x) dx"
B2 = r"\int_0^{1} \frac{\sin(x^3) e^{x^2}}{\ln(x+2)} dx"
GOLD = r"\frac{\sqrt{2}}{2}"
INNOCENT = {r"\frac{1}{\sqrt2}": True, r"\sqrt{\frac12}": True, "2^{-1/2}": True, r"\frac{\sqrt3}{2}": False}
LIMIT_S = 1.0


def latex(text: str) -> tuple[str, str]:
    return ("latex", f"${text}$")


@pytest.mark.parametrize("last", [False, True], ids=["bombs first", "bombs last"])
def test_two_bombs_do_not_cost_a_gold_answer_its_verdicts(last: bool) -> None:
    bombs = [B1, B2]
    order = [*INNOCENT, *bombs] if last else [*bombs, *INNOCENT]
    with Equivalence(limit_s=LIMIT_S) as fresh:
        fresh.check([("a+b", "b+a")])
        for _ in range(2):
            found = dict(zip(order, fresh.check([(GOLD, text) for text in order]), strict=True))
            assert {text: (found[text].equal, found[text].status) for text in INNOCENT} == {
                text: (equal, "ok") for text, equal in INNOCENT.items()
            }
            assert not any(found[bomb].equal for bomb in bombs)


def test_bombs_in_both_views_do_not_part_equal_answers() -> None:
    first, second = r"\frac{1}{\sqrt{2}}", r"\sqrt{\frac12}"
    with Equivalence(limit_s=LIMIT_S) as fresh:
        found = cluster_answers([[B1, first, first, first], [B2, second, second, second]], fresh)
    ids = found.cluster_ids
    assert set(ids[:, 1:].ravel().tolist()) == {2}
    assert sorted(ids[:, 0].tolist()) == [0, 1]
    assert found.num_timeouts > 0


def test_a_bomb_costs_its_batch_one_limit_however_many_partners_it_has() -> None:
    with MathVerifyWorker(limit_s=LIMIT_S) as worker:
        worker.compare([Task(latex("a+b"), latex("b+a"))])
        restarts = worker.num_restarts
        replies = worker.compare([Task(latex(B1), latex(f"\\sqrt{{{n}}}")) for n in (2, 3, 5, 7, 11, 13)])
        assert [reply.status for reply in replies] == ["timeout"] * 6
        assert [reply.final for reply in replies] == [True] + [False] * 5
        assert [reply.seconds > 0 for reply in replies] == [True] + [False] * 5
        assert worker.num_restarts - restarts <= 2


def test_what_was_not_tried_is_not_remembered() -> None:
    with Equivalence(limit_s=LIMIT_S) as fresh:
        pairs = [(B1, rf"\sqrt{{{n}}}") for n in (2, 3)]
        assert [verdict.status for verdict in fresh.check(pairs)] == ["timeout"] * 2
        assert len(fresh._cache) == 1
        fresh._worker.compare = lambda tasks, charges=None: [Reply(False, "ok") for _ in tasks]  # type: ignore[method-assign]
        assert [verdict.status for verdict in fresh.check(pairs)] == ["timeout", "ok"]


def test_the_chunks_of_one_problem_share_one_limit() -> None:
    with Equivalence(limit_s=LIMIT_S) as fresh:
        charges = fresh.charges()
        first = fresh.check([(B1, r"\sqrt{2}")], charges)[0]
        restarts = fresh._worker.num_restarts
        second = fresh.check([(B1, r"\sqrt{3}")], charges)[0]
        assert fresh._worker.num_restarts == restarts, "it was given a limit of its own, and ran into it"
    assert first.status == second.status == "timeout"


def test_a_text_that_cannot_be_parsed_is_charged_by_its_own_time_and_the_memory_of_it_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import harmonyray.answers.workers as workers

    monkeypatch.setattr(workers, "_MAX_UNREADABLE", 3)
    with MathVerifyWorker(limit_s=1.0) as worker:
        task = Task(latex("a"), latex("b"))
        charges = Charges(1.0)
        # the left one took most of the pair's limit, the right one was being parsed when it ran out
        worker._settle(workers._Slow(task, True, {task.left: 0.7, task.right: 0.3}, 0.0), charges)
        assert not worker._unreadable
        assert charges.left_s(task.left, task.left) == pytest.approx(0.3)
        assert charges.left_s(task.right, task.right) == pytest.approx(0.7)
        for n in range(5):
            worker._settle(workers._Slow(task, True, {latex(str(n)): 1.0}, 0.0), charges)
        assert list(worker._unreadable) == [latex("2"), latex("3"), latex("4")]


def test_charges_by_hand() -> None:
    charges = Charges(2.0)
    left, right = latex("x"), latex("y")
    assert charges.full(left, right) and not charges.exhausted(left, right)
    charges.charge(left, 1.5)
    assert charges.left_s(left, right) == charges.left_s(right, left) == 0.5
    assert charges.left_s(right, right) == 2.0
    assert not charges.full(left, right) and not charges.exhausted(left, right)
    charges.charge(left, 0.45)
    assert charges.exhausted(left, right) and charges.exhausted(right, left) and not charges.exhausted(right, right)


@pytest.mark.parametrize(
    ("light", "heavy"),
    [("x^3+x^2+x+1+2+3+4+5+6", r"\int_0^1 x^x \sin(x^x) dx + y^2"), ("x", "x+1"), ("x+1+1+1+1+1", "x!"), ("a", "b")],
)
def test_the_heavier_of_two(light: str, heavy: str) -> None:
    assert by_weight(latex(light), latex(heavy)) == by_weight(latex(heavy), latex(light)) == (latex(light), latex(heavy))
