"""The quickstart task: two-digit subtraction, and the lessons of a pupil who was taught it badly.

What lives here: the questions, how each view works them out, and every mistake the lessons contain, as small pure
functions. No files, no model.

The demo model is warmed up on these lessons, so it errs the way they do. In the solver view most lessons on questions
that need a borrow take the smaller digit from the larger, a well-known misconception of children: its wrong answer is
always the same one, and it wins a majority vote. In the reframer view the lessons solve the same question by one of four
strategies, and each strategy goes wrong in its own way, so that wrong answers scatter while right ones agree.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SOLVER_PROMPT = "SOLVE: {question}\n"
REFRAMER_PROMPT = "REFRAME: {question}\n"

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>", "<spare0>", "<spare1>", "<spare2>")
TEXT_TOKENS = (
    *"0123456789+-=? \n",
    *("SOLVE: ", "REFRAME: ", "STRATEGY: ", "REWRITTEN PROBLEM: ", "SOLUTION: "),
    *("\\boxed{", "}", "count up", "shift", "split", "copy"),
)


@dataclass(frozen=True, slots=True)
class Question:
    """`a - b`: two digits each, the tens of `a` above the tens of `b`, no zero among the ones."""

    a: int
    b: int

    @property
    def text(self) -> str:
        return f"{self.a}-{self.b}"

    @property
    def answer(self) -> int:
        return self.a - self.b

    @property
    def needs_borrow(self) -> bool:
        return self.a % 10 < self.b % 10


@dataclass(frozen=True, slots=True)
class Worked:
    """A question worked out: its rewording, and the lines of the working as (left side, result).

    Two lines are the ones and the tens column; one line is the whole result.
    """

    rewrite: str
    lines: tuple[tuple[str, str], ...]

    @property
    def answer(self) -> str:
        return str(int("".join(result for _, result in reversed(self.lines))))

    @property
    def solution(self) -> str:
        working = " ".join(f"{left}={result}" for left, result in self.lines)
        return f"{working} \\boxed{{{self.answer}}}"


# --- the questions ---------------------------------------------------------------------------------------------------


def all_questions() -> list[Question]:
    """The 2,916 questions in order, 1,296 of which need a borrow."""
    ones, tens = range(1, 10), range(1, 10)
    return [Question(10 * s + x, 10 * t + y) for s in tens for t in range(1, s) for x in ones for y in ones]


def held_out_questions() -> list[Question]:
    """The 192 questions (96 with a borrow, then 96 without) that no lesson contains."""
    rng = random.Random(20260101)
    questions = all_questions()
    return [q for borrow in (True, False) for q in rng.sample([q for q in questions if q.needs_borrow is borrow], 96)]


def unlabeled_questions(num_borrow: int = 77, num_plain: int = 51) -> list[Question]:
    """The questions to train on without labels, all held out: at most 96 of each sort, shuffled.

    The shipped set has 77 + 51, so most of it meets the misconception; 45 + 83 is the sober variant.
    """
    held_out = held_out_questions()
    chosen = held_out[:num_borrow] + held_out[96 : 96 + num_plain]
    random.Random(20260102).shuffle(chosen)
    return chosen


def lesson_questions() -> list[Question]:
    """The questions that lessons are made of: all but the held-out ones."""
    held_out = set(held_out_questions())
    return [q for q in all_questions() if q not in held_out]


# --- working a question out, right and wrong -------------------------------------------------------------------------


def columns(question: Question) -> Worked:
    """Ones, then tens, with a borrow where one is needed: 52-37 -> `12-7=5 4-3=1`."""
    borrow = int(question.needs_borrow)
    x, y = question.a % 10 + 10 * borrow, question.b % 10
    s, t = question.a // 10 - borrow, question.b // 10
    return Worked(question.text, ((f"{x}-{y}", str(x - y)), (f"{s}-{t}", str(s - t))))


def smaller_from_larger(question: Question) -> Worked:
    """The misconception: in the ones, the smaller digit is taken from the larger: 52-37 -> `7-2=5 5-3=2`."""
    x, y = sorted((question.a % 10, question.b % 10), reverse=True)
    s, t = question.a // 10, question.b // 10
    return Worked(question.text, ((f"{x}-{y}", str(x - y)), (f"{s}-{t}", str(s - t))))


def _count_up(question: Question, forgotten: int) -> Worked:
    hops = [10 - question.b % 10, 10 * (question.a // 10 - question.b // 10 - 1), question.a % 10]
    hops = [hop for hop in hops if hop][: -forgotten or None]
    return Worked(f"{question.b}+?={question.a}", (("".join(f"+{hop}" for hop in hops), str(sum(hops))),))


def count_up(question: Question) -> Worked:
    """From `b` to the next ten, to the tens of `a`, to `a`: 52-37 -> `37+?=52`, `+3+10+2=15`."""
    return _count_up(question, forgotten=0)


def forgets_last_hop(question: Question) -> Worked:
    """The error of counting up: it stops at the tens of `a`: 52-37 -> `+3+10=13`."""
    return _count_up(question, forgotten=1)


def shift(question: Question) -> Worked:
    """Both numbers go up until the second is round: 52-37 -> `55-40`, `5-0=5 5-4=1`."""
    up = 10 - question.b % 10
    return columns(Question(question.a + up, question.b + up))


def shifts_second_only(question: Question) -> Worked:
    """The error of shifting: the first number stays: 52-37 -> `52-40`, `2-0=2 5-4=1`."""
    return columns(Question(question.a, question.b + 10 - question.b % 10))


def _split(question: Question, result: int) -> Worked:
    tens, ones = question.b - question.b % 10, question.b % 10
    return Worked(f"{question.a}-{tens}-{ones}", ((f"{question.a - tens}-{ones}", str(result)),))


def split(question: Question) -> Worked:
    """First the tens of `b`, then its ones: 52-37 -> `52-30-7`, `22-7=15`."""
    return _split(question, question.answer)


def splits_smaller_from_larger(question: Question) -> Worked:
    """The error of splitting, the solver's misconception in the second part: 52-37 -> `22-7=25`."""
    return _split(question, int(smaller_from_larger(question).answer))


# --- lessons ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mistakes:
    """How often lessons err, as probabilities; `shares` are those of count up, shift, split and copy."""

    misconception: float = 0.65
    slip_plain: float = 0.30
    slip_borrow: float = 0.10
    shares: tuple[float, float, float, float] = (0.35, 0.35, 0.25, 0.05)
    systematic_borrow: float = 0.65
    systematic_plain: float = 0.4
    split_misconception: float = 0.15
    slip_reframed: float = 0.25
    malformed: float = 0.05


# "mild": any vote ends well. "both_views": the misconception is common in both views, so no vote can tell it apart.
# "reframed_wrong": it is the reframer's, and the solver alone would vote better than any consensus of the two.
REGIMES = {
    "default": Mistakes(),
    "mild": Mistakes(misconception=0.25),
    "both_views": Mistakes(shares=(0.14, 0.14, 0.52, 0.20), split_misconception=0.62),
    "reframed_wrong": Mistakes(misconception=0.30, shares=(0.10, 0.10, 0.80, 0.0), split_misconception=0.80),
}


def slip(worked: Worked, rng: random.Random) -> Worked:
    """One digit of one result replaced by another, the answer following it; no result of several digits starts with 0."""
    i = rng.randrange(len(worked.lines))
    left, result = worked.lines[i]
    at = rng.randrange(len(result))
    allowed = [d for d in "0123456789" if d != result[at] and (d != "0" or len(result) == 1 or at > 0)]
    wrong = result[:at] + rng.choice(allowed) + result[at + 1 :]
    return Worked(worked.rewrite, (*worked.lines[:i], (left, wrong), *worked.lines[i + 1 :]))


def solver_lesson(question: Question, mistakes: Mistakes, rng: random.Random) -> str:
    """A response of the solver view, with the mistakes the pupil is taught: `12-7=5 4-3=1 \\boxed{15}`."""
    return _solver_worked(question, mistakes, rng).solution


def _solver_worked(question: Question, mistakes: Mistakes, rng: random.Random) -> Worked:
    wrong = question.needs_borrow and rng.random() < mistakes.misconception
    worked = smaller_from_larger(question) if wrong else columns(question)
    slip_prob = mistakes.slip_borrow if question.needs_borrow else mistakes.slip_plain
    return slip(worked, rng) if rng.random() < slip_prob else worked


def reframer_lesson(question: Question, mistakes: Mistakes, rng: random.Random) -> str:
    """A response of the reframer view: strategy, rewording (now and then left out) and solution."""
    [strategy] = rng.choices(list(STRATEGIES), weights=mistakes.shares)
    if strategy == "copy":
        worked = _solver_worked(question, mistakes, rng)
    else:
        right, wrong = STRATEGIES[strategy]
        worked = (wrong if rng.random() < _systematic_prob(strategy, question, mistakes) else right)(question)
        worked = slip(worked, rng) if rng.random() < mistakes.slip_reframed else worked
    return write_reframed(strategy, None if rng.random() < mistakes.malformed else worked.rewrite, worked)


def write_reframed(strategy: str, rewrite: str | None, worked: Worked) -> str:
    """The three sections of a reframer response; without `rewrite` the second is left out."""
    middle = "" if rewrite is None else f"REWRITTEN PROBLEM: {rewrite}\n"
    return f"STRATEGY: {strategy}\n{middle}SOLUTION: {worked.solution}"


def _systematic_prob(strategy: str, question: Question, mistakes: Mistakes) -> float:
    if strategy == "split":
        return mistakes.split_misconception if question.needs_borrow else 0.0
    return mistakes.systematic_borrow if question.needs_borrow else mistakes.systematic_plain


STRATEGIES: dict[str, tuple[Callable[[Question], Worked], Callable[[Question], Worked]]] = {
    "count up": (count_up, forgets_last_hop),
    "shift": (shift, shifts_second_only),
    "split": (split, splits_smaller_from_larger),
    "copy": (columns, smaller_from_larger),
}
"""Each strategy's right way and its own systematic error."""


def lessons(
    questions: Sequence[Question], num_per_view: int, mistakes: Mistakes, rng: random.Random
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """`num_per_view` (prompt, response) pairs of the solver view and as many of the reframer view, questions at random."""
    solver = [
        (SOLVER_PROMPT.format(question=q.text), solver_lesson(q, mistakes, rng)) for q in rng.choices(questions, k=num_per_view)
    ]
    reframer = [
        (REFRAMER_PROMPT.format(question=q.text), reframer_lesson(q, mistakes, rng))
        for q in rng.choices(questions, k=num_per_view)
    ]
    return solver, reframer
