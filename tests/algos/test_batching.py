"""From judged rollouts to rows, by hand, and that nothing unfinished ever reaches a learner."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonyray.algos.advantages import Grpo
from harmonyray.algos.batching import fill_batch, plan_batch, plan_metrics, teaching
from harmonyray.protocols import Ask
from harmonyray.rollouts import keep
from harmonyray.types import (
    AnswerGroup,
    Batch,
    Consensus,
    FloatArray,
    Judgement,
    Problem,
    ProblemRollouts,
    Prompt,
    Rollout,
    Sampling,
)
from harmonyray.views.solver import Solver

NAN = float("nan")


def ask(temperature: float = 1.0, trained: bool = True) -> Ask:
    return Ask(Solver("v", Solver.Options()), 1, Sampling(8, temperature), trained)


class AsIs:
    """Advantages that are the rewards, so that rows can be told apart; remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[FloatArray] = []

    def advantages(self, rewards: FloatArray) -> FloatArray:
        self.seen.append(rewards.copy())
        return rewards


def rollout(problem: str, view: int, prompt: list[int], response: list[int]) -> Rollout:
    logprobs = (-np.array(response) / 10).astype(np.float32)
    return Rollout(Prompt(problem, str(view), text="?"), np.array(prompt), np.array(response), logprobs, "", "stop", 0)


def rollouts(problem: str, views: list[list[tuple[list[int], list[int]]]]) -> ProblemRollouts:
    made = tuple(tuple(rollout(problem, v, *row) for row in rows) for v, rows in enumerate(views))
    return ProblemRollouts(Problem(problem, "?"), tuple(map(keep, made)))


def judgement(problem: str, rewards: list[list[float]], trained: list[bool] | None = None) -> Judgement:
    values = np.array(rewards, dtype=float)
    num_samples = (~np.isnan(values)).sum(1)
    group = AnswerGroup(problem, np.zeros(values.shape, dtype=np.int64), num_samples, ("x",))
    consensus = Consensus((0,) * len(values), np.ones(1), np.ones((1, len(values))), 1.0)
    return Judgement(group, consensus, values, np.array(trained if trained is not None else [True] * len(values)))


def made(
    problems: list[ProblemRollouts], judgements: list[Judgement], advantage: object = None, temperature: float = 1.0
) -> Batch:
    views = [ask(temperature)] * len(judgements[0].rewards)
    plan = plan_batch(problems, judgements, advantage or AsIs(), views)  # type: ignore[arg-type]
    assert plan is not None
    return fill_batch(plan)


def test_one_batch_by_hand() -> None:
    first = rollouts("p", [[([11, 12], [21, 22, 23]), ([11, 12], [24])], [([13], [25, 26]), ([13], [27])]])
    second = rollouts("q", [[([14, 15, 16], [28]), ([14, 15, 16], [29, 30])], [([17], [31]), ([17], [32])]])
    batch = made([first, second], [judgement("p", [[1, 2], [3, 4]]), judgement("q", [[5, 6], [7, 8]])], temperature=0.7)
    # Problems in order, in each the views in order, in each the samples in order; padded on the right.
    assert batch.token_ids.tolist() == [
        [11, 12, 21, 22, 23],
        [11, 12, 24, 0, 0],
        [13, 25, 26, 0, 0],
        [13, 27, 0, 0, 0],
        [14, 15, 16, 28, 0],
        [14, 15, 16, 29, 30],
        [17, 31, 0, 0, 0],
        [17, 32, 0, 0, 0],
    ]
    assert batch.lengths.tolist() == [5, 3, 3, 2, 4, 5, 2, 2]
    assert batch.response_mask.astype(int).tolist() == [
        [0, 0, 1, 1, 1],
        [0, 0, 1, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
        [0, 1, 0, 0, 0],
        [0, 1, 0, 0, 0],
    ]
    assert batch.part.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert batch.problem.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    values = np.array([1, 2, 3, 4, 5, 6, 7, 8])[:, None]
    assert np.array_equal(batch.advantages, np.where(batch.response_mask, values, 0))
    assert batch.old_logprobs == pytest.approx(np.where(batch.response_mask, -batch.token_ids / 10, 0), abs=1e-6)
    assert batch.num_rows == 8
    assert batch.temperatures.tolist() == pytest.approx([0.7] * 8)
    assert batch.token_ids.dtype == np.int64
    assert batch.advantages.dtype == batch.old_logprobs.dtype == np.float32


def test_untrained_views_are_left_out_and_hidden_from_the_advantage() -> None:
    rows = [([1], [2]), ([1], [3])]
    problems = [rollouts("p", [rows, rows]), rollouts("q", [rows, rows]), rollouts("r", [rows, rows])]
    judged = [
        judgement("p", [[1, 2], [3, 4]], [True, False]),
        judgement("q", [[5, 6], [7, 8]], [False, False]),
        judgement("r", [[9, 10], [11, 12]], [False, True]),
    ]
    advantage = AsIs()
    batch = made(problems, judged, advantage)
    assert batch.advantages[:, 1].tolist() == [1, 2, 11, 12]
    assert batch.part.tolist() == [0, 0, 1, 1]
    assert batch.problem.tolist() == [0, 0, 2, 2]
    assert advantage.seen[0] == pytest.approx(np.array([[1, 2], [NAN, NAN]]), nan_ok=True)
    # What was judged stays as it was.
    assert judged[0].rewards.tolist() == [[1, 2], [3, 4]]


def test_nothing_to_train_on() -> None:
    problem = rollouts("p", [[([1], [2])]])
    assert plan_batch([problem], [judgement("p", [[1]], [False])], Grpo(Grpo.Options()), [ask()]) is None
    assert plan_batch([], [], Grpo(Grpo.Options()), [ask()]) is None


def test_views_with_different_numbers_of_samples() -> None:
    problem = rollouts("p", [[([1], [2]), ([1], [3]), ([1], [4])], [([5], [6])]])
    batch = made([problem], [judgement("p", [[1, 2, 3], [4, NAN, NAN]])])
    assert batch.token_ids.tolist() == [[1, 2], [1, 3], [1, 4], [5, 6]]
    assert batch.advantages[:, 1].tolist() == [1, 2, 3, 4]


def test_a_view_with_a_model_of_its_own_votes_but_is_not_trained() -> None:
    rows = [([1], [2]), ([1], [3])]
    advantage, views = AsIs(), [ask(), ask(0.5, trained=False), ask(0.8)]
    plan = plan_batch([rollouts("p", [rows] * 3)], [judgement("p", [[1, 2], [3, 4], [5, 6]])], advantage, views)
    assert plan is not None
    batch = fill_batch(plan)
    assert batch.advantages[:, 1].tolist() == [1, 2, 5, 6]
    assert batch.part.tolist() == [0, 0, 2, 2]
    assert batch.temperatures.tolist() == pytest.approx([1, 1, 0.8, 0.8])
    assert advantage.seen[0] == pytest.approx(np.array([[1, 2], [NAN, NAN], [5, 6]]), nan_ok=True)


def test_a_draft_is_trained_by_the_mean_reward_of_what_it_led_to() -> None:
    """Three drafts of the second view lead to 2, 2 and 1 responses with rewards 1, 0 | 1, 1 | 0."""
    drafts = [rollout("p", 1, [9], [40 + d]) for d in range(3)]
    solver = tuple(rollout("p", 0, [1], [2]) for _ in range(5))
    staged = tuple(replace(rollout("p", 1, [8], [20 + n]), draft=drafts[d]) for n, d in enumerate([0, 0, 1, 1, 2]))
    problem = ProblemRollouts(Problem("p", "?"), (keep(solver), keep(staged)))
    advantage = AsIs()
    batch = made([problem], [judgement("p", [[0] * 5, [1, 0, 1, 1, 0]])], advantage)
    assert batch.part.tolist() == [0] * 5 + [1] * 5 + [3] * 3  # drafts of view v are part V + v
    assert batch.token_ids[10:].tolist() == [[9, 40], [9, 41], [9, 42]]
    assert batch.advantages[10:, 1].tolist() == [0.5, 1, 0]
    assert advantage.seen[1].tolist() == [[0.5, 1, 0]]


def test_drafts_of_an_untrained_view_stay_out() -> None:
    draft = rollout("p", 0, [9], [40])
    problem = ProblemRollouts(Problem("p", "?"), (keep((replace(rollout("p", 0, [8], [20]), draft=draft),)),))
    assert plan_batch([problem], [judgement("p", [[1]], [False])], AsIs(), [ask()]) is None


def test_labels_must_meet_their_own_problem() -> None:
    rows = [([1], [2]), ([1], [3])]
    problems = [rollouts("p", [rows]), rollouts("q", [rows])]
    judged = [judgement("p", [[1, 0]]), judgement("q", [[0, 1]])]
    with pytest.raises(AssertionError, match="labels must meet their own problem"):
        plan_batch(problems, judged[::-1], Grpo(Grpo.Options()), [ask()])
    for shorter in (judged[:1], []):
        with pytest.raises(ValueError, match="zip"):
            plan_batch(problems, shorter, Grpo(Grpo.Options()), [ask()])


def test_with_real_advantages() -> None:
    rows = [([1], [2, 3]), ([1], [4]), ([1], [5]), ([1], [6])]
    batch = made([rollouts("p", [rows, rows])], [judgement("p", [[1, 0, 0, 0], [1, 1, 1, 1]])], Grpo(Grpo.Options()))
    assert batch.advantages[:, 1].tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5, 0, 0, 0, 0], abs=1e-5)
    # Every response token of a row has the row's advantage.
    assert batch.advantages[0].tolist() == pytest.approx([0, 1.5, 1.5], abs=1e-5)


def test_groups_that_teach_nothing_are_counted() -> None:
    """Equal rewards in two of four groups; 0.1 + 0.2 leaves rounding behind."""
    rows = [([1], [2]), ([1], [4]), ([1], [5])]
    problems = [rollouts("p", [rows, rows]), rollouts("q", [rows, rows])]
    judged = [judgement("p", [[1, 0, 0], [1, 1, 1]]), judgement("q", [[0.1 + 0.2] * 3, [0, 1, 0]])]
    grpo = Grpo(Grpo.Options())
    assert plan_metrics(plan_batch(problems, judged, grpo, [ask()] * 2)) == {"train/zero_variance_groups": 0.5}
    assert plan_metrics(plan_batch(problems, judged, AsIs(), [ask()] * 2)) == {"train/zero_variance_groups": 0.0}
    assert plan_metrics(None) == {}


def test_groups_that_teach_nothing_are_left_out() -> None:
    """Of problem p the second view goes, of q the first, of r both."""
    rows = [([1], [2]), ([1], [4]), ([1], [5])]
    problems = [rollouts(name, [rows, rows]) for name in "pqr"]
    rewards = [[[1, 0, 0], [1, 1, 1]], [[0.1 + 0.2] * 3, [0, 1, 0]], [[0, 0, 0], [1, 1, 1]]]
    judged = [judgement(name, own) for name, own in zip("pqr", rewards, strict=True)]
    plan = plan_batch(problems, judged, Grpo(Grpo.Options()), [ask()] * 2)
    assert plan is not None
    kept = teaching(plan)
    assert kept is not None
    assert [(group.problem, group.part) for group in kept] == [(0, 0), (1, 1)]
    assert teaching(plan[4:]) is None
    assert teaching(None) is None


@given(st.data(), st.sampled_from(["view", "problem"]))
def test_only_finite_advantages_reach_a_batch(data: st.DataObject, group: str) -> None:
    """Whatever is untrained or absent, and however many samples are left."""
    problems, judged, num_rows = [], [], 0
    num_views = data.draw(st.integers(1, 3))
    for p in range(data.draw(st.integers(1, 4))):
        counts = data.draw(st.lists(st.integers(1, 4), min_size=num_views, max_size=num_views))
        trained = data.draw(st.lists(st.booleans(), min_size=num_views, max_size=num_views))
        rewards = [data.draw(st.lists(st.floats(-1, 1), min_size=n, max_size=n)) + [NAN] * (max(counts) - n) for n in counts]
        problems.append(rollouts(str(p), [[([1], [2])] * n for n in counts]))
        judged.append(judgement(str(p), rewards, trained))
        num_rows += sum(n for n, t in zip(counts, trained, strict=True) if t)
    plan = plan_batch(problems, judged, Grpo(Grpo.Options.model_validate({"group": group})), [ask()] * num_views)
    if num_rows == 0:
        assert plan is None
        return
    assert plan is not None
    batch = fill_batch(plan)
    assert batch.num_rows == num_rows
    assert np.isfinite(batch.advantages).all()
    assert np.isfinite(batch.old_logprobs).all()


def test_samples_that_only_voted_are_no_rows() -> None:
    rows = [([1], [2]), ([1], [3, 4]), ([1], [5])]
    problems = [rollouts("p", [rows]), rollouts("q", [rows])]
    judged = [judgement("p", [[1, 2, 3]]), judgement("q", [[4, 5, 6]])]
    judged[0].rewards[0, 1:] = NAN
    plan = plan_batch(problems, judged, AsIs(), [ask()])
    assert plan is not None
    batch = fill_batch(plan)
    assert batch.token_ids.tolist() == [[1, 2, 0], [1, 2, 0], [1, 3, 4], [1, 5, 0]]
    assert batch.problem.tolist() == [0, 1, 1, 1]
    assert batch.advantages.max(1).tolist() == [1, 4, 5, 6]
    # In the first group one is left, and the others are no difference to it.
    assert plan_metrics(plan_batch(problems, judged, Grpo(Grpo.Options()), [ask()])) == {"train/zero_variance_groups": 0}
    judged[0].rewards[0, 0] = 0
    assert plan_metrics(plan_batch(problems, judged, Grpo(Grpo.Options()), [ask()])) == {"train/zero_variance_groups": 0.5}


def test_a_draft_earns_what_its_trained_responses_do() -> None:
    drafts = [rollout("p", 0, [1], [7]), rollout("p", 0, [1], [8])]
    responses = [replace(rollout("p", 0, [9], [n]), draft=drafts[n // 2]) for n in range(4)]
    problem = ProblemRollouts(Problem("p", "?"), (keep(tuple(responses)),))
    judged = judgement("p", [[1, 0, 1, 1]])
    for rewards, want in (([1, NAN, 0, 1], [1, 0.5]), ([1, 0, NAN, NAN], [0.5, NAN])):
        judged.rewards[0] = rewards
        plan = plan_batch([problem], [judged], AsIs(), [ask()])
        assert plan is not None
        assert np.array_equal(plan[1].advantages, want, equal_nan=True)
        assert len(fill_batch(plan).lengths) == (3 + 2 if want[1] == 0.5 else 2 + 1)


def test_a_further_view_masked_like_the_first() -> None:
    """Of the second view's responses of 3, 1 and 2 tokens, 1, 1 and 2 count: the first view's have 1, 2 and 4."""
    first = [([1], [2]), ([1], [3, 4]), ([1], [5, 6, 7, 8])]
    second = [([9], [21, 22, 23]), ([9], [24]), ([9], [25, 26])]
    asks = [ask(), replace(ask(), first_view_mask=True)]
    plan = plan_batch([rollouts("p", [first, second])], [judgement("p", [[1, 2, 3], [4, 5, 6]])], AsIs(), asks)
    assert plan is not None
    batch = fill_batch(plan)
    assert batch.response_mask.sum(1).tolist() == [1, 2, 4, 1, 1, 2]
    assert batch.lengths.tolist() == [2, 3, 5, 4, 2, 3], "the tokens are still there, for those after them to be seen"
    assert batch.response_mask[3].tolist() == [False, True, False, False, False]
    assert batch.token_ids[3].tolist() == [9, 21, 22, 23, 0]
    assert batch.old_logprobs[3] == pytest.approx([0, -2.1, 0, 0, 0])
    assert batch.advantages[3].tolist() == [0, 4, 0, 0, 0]
