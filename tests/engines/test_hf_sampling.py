"""What may and what may not change a sample, and that sampling follows the model's distribution."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from asking import sampled

from harmonyray.engines.hf import HfEngine, next_chunk
from harmonyray.engines.hf_batch import pick_tokens, uniforms
from harmonyray.types import Prompt, Rollout, SampleRequest, Sampling

MakeEngine = Callable[..., HfEngine]
SUMS = ["SOLVE: 52-37\n", "REFRAME: 61-28\n", "SOLVE: 98-81\n", "REFRAME: 75-3", "SOLVE: 41-29\n"]
SAMPLING = Sampling(40)
GRID = (np.arange(10_000) + 0.5) / 10_000


def request(text: str, seeds: tuple[int, ...], sampling: Sampling = SAMPLING) -> SampleRequest:
    return SampleRequest(Prompt(text, "solver", text=text), seeds, sampling)


def tokens(groups: list[tuple[Rollout, ...]]) -> list[list[list[int]]]:
    return [[r.token_ids.tolist() for r in group] for group in groups]


def assert_same(got: tuple[Rollout, ...], want: tuple[Rollout, ...]) -> None:
    assert [r.token_ids.tolist() for r in got] == [r.token_ids.tolist() for r in want]
    assert [r.text for r in got] == [r.text for r in want]
    assert [r.finish_reason for r in got] == [r.finish_reason for r in want]
    for a, b in zip(got, want, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)  # padding changes the order of sums


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked() -> list[SampleRequest]:
    return [request(text, tuple(range(1000 * i, 1000 * i + 3 + 2 * i))) for i, text in enumerate(SUMS)]


@pytest.mark.parametrize("max_batch_rows", [1, 7, 9, 20])
def test_batch_size_does_not_change_a_sample(engine_of: MakeEngine, asked: list[SampleRequest], max_batch_rows: int) -> None:
    whole = engine_of("quickstart").sample(asked, 0)
    assert [len(group) for group in whole] == [3, 5, 7, 9, 11]
    for got, want in zip(engine_of("quickstart", max_batch_rows).sample(asked, 0), whole, strict=True):
        assert_same(got, want)


def test_order_and_neighbours_do_not_change_a_sample(engine_of: MakeEngine, asked: list[SampleRequest]) -> None:
    engine = engine_of("quickstart")
    whole = engine.sample(asked, 0)
    for got, want in zip(reversed(engine.sample(asked[::-1], 0)), whole, strict=True):
        assert_same(got, want)
    for one, want in zip(asked, whole, strict=True):
        assert_same(engine.sample([one], 0)[0], want)
    # One seed out of a group, and a seed beside others.
    alone = engine.sample([request(SUMS[2], (2004,))], 0)[0]
    assert_same(alone, whole[2][4:5])
    beside = engine.sample([request(SUMS[2], (7, 2004, 8))], 0)[0]
    assert_same(beside[1:2], whole[2][4:5])


def test_a_longer_limit_only_adds_tokens(engine_of: MakeEngine) -> None:
    ask = [request(SUMS[0], tuple(range(20)))]
    short, long = (engine_of("quickstart").sample(sampled(ask, Sampling(n)), 0)[0] for n in (9, 30))
    assert [r.token_ids.tolist() for r in short] == [r.token_ids[:9].tolist() for r in long]


def test_seeds(engine_of: MakeEngine) -> None:
    engine = engine_of("quickstart")
    first = tokens(engine.sample([request(SUMS[0], (3, 4, 3), Sampling(30))], 0))[0]
    assert first[0] == first[2] != first[1]
    assert tokens(engine.sample([request(SUMS[0], (3, 4, 3), Sampling(30))], 0))[0] == first
    many = tokens(engine.sample([request(SUMS[1], tuple(range(64)), Sampling(30))], 0))[0]
    assert len({tuple(t) for t in many}) > 16


def test_uniforms_depend_on_the_seed_alone() -> None:
    u = uniforms([5, 6, 5], 100)
    assert u.shape == (3, 100)
    assert u.dtype == np.float64
    assert np.array_equal(u[0], u[2])
    assert not (u[0] == u[1]).any()
    assert np.array_equal(uniforms([6], 40)[0], u[1, :40])
    # All 63 bits of a run's seeds count.
    others = uniforms([5 + (1 << bit) for bit in (3, 31, 32, 48, 62)], 100)
    assert len(np.unique(np.concatenate([u[:1], others])[:, 0])) == 6
    assert u.min() >= 0
    assert u.max() < 1


@pytest.mark.parametrize("max_batch_rows", [1, 4, 6, 100])
def test_groups_are_never_split(max_batch_rows: int) -> None:
    sizes, lengths = [3, 1, 9, 2, 4, 1], [5, 2, 3, 2, 9, 5]
    requests = [request("x", tuple(range(n))) for n in sizes]
    waiting, chunks = {i: [0] * n for i, n in enumerate(lengths)}, []
    while waiting:
        chunks.append(next_chunk(requests, waiting, max_batch_rows))
        for i in chunks[-1]:
            del waiting[i]
    assert sorted(i for chunk in chunks for i in chunk) == list(range(6))
    for chunk in chunks:
        assert len(chunk) == 1 or sum(sizes[i] for i in chunk) <= max_batch_rows
    # Similar lengths go together, so that little is padded.
    order = [lengths[i] for chunk in chunks for i in chunk]
    assert order == sorted(order)
    if max_batch_rows == 4:
        # 1 and 2 samples; 9, more than fit; 3 and 1, which fill a batch; 4.
        assert chunks == [[1, 3], [2], [0, 5], [4]]


def test_no_requests(engine_of: MakeEngine) -> None:
    assert engine_of("llama").sample([], 0) == []


# --- distributions ---------------------------------------------------------------------------------------------------


def shares(probs: list[float], sampling: Sampling) -> tuple[list[float], torch.Tensor]:
    """Share of each token on an even grid of uniform numbers, and the log-probs."""
    logits = torch.tensor(probs).log().expand(len(GRID), -1)
    drawn, logprobs = pick_tokens(logits, torch.from_numpy(GRID), sampling)
    assert logprobs.dtype == torch.float32
    for token in drawn.unique():
        assert len(logprobs[drawn == token].unique()) == 1
    by_token = torch.full((len(probs),), float("nan"))
    by_token[drawn] = logprobs
    return (torch.bincount(drawn, minlength=len(probs)) / len(GRID)).tolist(), by_token


def test_shares_equal_probabilities() -> None:
    got, logprobs = shares([0.5, 0.125, 0.25, 0.125], Sampling(1))
    assert got == pytest.approx([0.5, 0.125, 0.25, 0.125], abs=2e-4)
    assert logprobs.exp().tolist() == pytest.approx([0.5, 0.125, 0.25, 0.125])


def test_temperature_by_hand() -> None:
    # T = 1/2 squares: 16, 1, 4, 1 of 22.
    got, logprobs = shares([0.5, 0.125, 0.25, 0.125], Sampling(1, temperature=0.5))
    assert got == pytest.approx([16 / 22, 1 / 22, 4 / 22, 1 / 22], abs=2e-4)
    assert logprobs.exp().tolist() == pytest.approx([16 / 22, 1 / 22, 4 / 22, 1 / 22])


def test_temperature_zero_is_the_largest_logit() -> None:
    got, logprobs = shares([0.3, 0.45, 0.25], Sampling(1, temperature=0))
    assert got == [0, 1, 0]
    # Its log-prob is that at temperature 1.
    assert logprobs[1].exp().item() == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("top_p", "want"),
    [
        (0.01, [0, 0, 1, 0]),
        (0.5, [0, 0, 1, 0]),  # exactly reached by the first
        (0.51, [0, 1 / 3, 2 / 3, 0]),
        (0.75, [0, 1 / 3, 2 / 3, 0]),
        (0.8, [1 / 7, 2 / 7, 4 / 7, 0]),
        (0.99, [0.125, 0.25, 0.5, 0.125]),
        (1.0, [0.125, 0.25, 0.5, 0.125]),
    ],
)
def test_top_p_by_hand(top_p: float, want: list[float]) -> None:
    probs = [0.125, 0.25, 0.5, 0.125]
    got, logprobs = shares(probs, Sampling(1, top_p=top_p))
    if top_p == 0.8:
        # Which of the two equal ones completes the nucleus is open.
        assert sorted(got) == pytest.approx(sorted(want), abs=2e-4)
        return
    assert got == pytest.approx(want, abs=2e-4)
    # The log-prob stays that of the whole distribution.
    drawn = [i for i, share in enumerate(want) if share]
    assert logprobs[drawn].exp().tolist() == pytest.approx([probs[i] for i in drawn])


def test_extreme_draws_stay_in_the_support() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(3, -1)
    u = torch.tensor([0.0, 0.5 - 1e-12, 1 - 2**-53], dtype=torch.float64)
    assert pick_tokens(logits, u, Sampling(1))[0].tolist() == [1, 1, 3]


def test_rare_tokens_are_told_apart() -> None:
    # 1000 tokens of probability 1e-9 after one of nearly 1: a float32 cumulative sum cannot resolve them.
    logits = torch.full((3, 1001), math.log(1e-9))
    logits[:, 0] = 0.0
    u = torch.tensor([1 - 9.5e-7, 1 - 5e-7, 1 - 1e-10], dtype=torch.float64)
    got = pick_tokens(logits, u, Sampling(1))[0].tolist()
    assert got == pytest.approx([51, 501, 1000], abs=1)


@torch.no_grad()
def first_token_probs(engine: HfEngine, text: str, temperature: float) -> np.ndarray:
    ids = torch.tensor([engine.tokenizer(text)["input_ids"]], device=engine.model.device)
    return torch.softmax(engine.model(input_ids=ids).logits[0, -1].double() / temperature, -1).cpu().numpy()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_follow_the_softmax(engine_of: MakeEngine, temperature: float) -> None:
    engine, n = engine_of("gpt_neox"), 4000
    (group,) = engine.sample([request("a b c", tuple(range(n)), Sampling(1, temperature))], 0)
    counts = np.bincount([r.token_ids[0] for r in group], minlength=32)
    expected = first_token_probs(engine, "a b c", temperature) * n
    common = expected >= 5
    assert common.sum() >= 8
    statistic = (((counts - expected) ** 2 / expected)[common]).sum()
    freedom = common.sum()
    assert statistic < freedom + 4 * np.sqrt(2 * freedom)
    # The other temperature would not pass.
    other = first_token_probs(engine, "a b c", 0.75) * n
    assert (((counts - other) ** 2 / other)[common]).sum() > freedom + 4 * np.sqrt(2 * freedom)


def test_later_tokens_are_as_independent_as_first_ones(engine_of: MakeEngine) -> None:
    """The second token given the first follows its own conditional distribution."""
    engine, n = engine_of("gpt_neox"), 6000
    (group,) = engine.sample([request("a b c", tuple(range(n)), Sampling(2))], 0)
    first = np.bincount([r.token_ids[0] for r in group if len(r.token_ids) == 2]).argmax()
    second = [r.token_ids[1] for r in group if r.token_ids[0] == first]
    word = engine.tokenizer.convert_ids_to_tokens(int(first))
    expected = first_token_probs(engine, f"a b c {word}", 1.0) * len(second)
    counts = np.bincount(second, minlength=32)
    common = expected >= 5
    statistic = (((counts - expected) ** 2 / expected)[common]).sum()
    assert common.sum() >= 5
    assert statistic < common.sum() + 4 * np.sqrt(2 * common.sum())


@torch.no_grad()
def test_top_p_never_leaves_the_nucleus(engine_of: MakeEngine) -> None:
    engine, top_p, seen_outside_without = engine_of("llama"), 0.6, 0
    for cut in (top_p, 1.0):
        (group,) = engine.sample([request("q w e", tuple(range(100)), Sampling(12, 0.9, cut))], 0)
        for rollout in group:
            ids = torch.tensor([rollout.prompt_ids.tolist() + rollout.token_ids.tolist()], device=engine.model.device)
            probs = torch.softmax(engine.model(input_ids=ids).logits[0, len(rollout.prompt_ids) - 1 : -1] / 0.9, -1).cpu()
            chosen = probs.gather(1, torch.from_numpy(rollout.token_ids)[:, None])
            # A token is in the nucleus if what is more likely than it does not reach top_p.
            before = torch.where(probs > chosen + 1e-6, probs, 0.0).sum(1)
            if cut < 1:
                assert (before < top_p + 1e-5).all()
            else:
                seen_outside_without += int((before >= top_p).sum())
    assert seen_outside_without > 50
