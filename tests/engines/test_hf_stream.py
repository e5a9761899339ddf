"""Streaming with the transformers engine: growing requests, deadlines, memory that runs out, and threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from asking import TEXTS, ask, sampled, tokens

from harmonyray.engines import hf, hf_batch
from harmonyray.engines.hf import HfEngine, out_of_memory
from harmonyray.engines.weights import checksum
from harmonyray.errors import RunError, StaleWeightsError
from harmonyray.types import Failure, Prompt, Rollout, SampleRequest, Sampling

MakeEngine = Callable[..., HfEngine]
SaveModel = Callable[..., str]
Answers = list[tuple[int, tuple[Rollout, ...] | Failure]]


def endless(path: str, max_batch_rows: int = 512) -> HfEngine:
    """An engine whose model cannot end a response by itself."""
    engine = HfEngine(HfEngine.Options(max_batch_rows=max_batch_rows), path)
    engine.stop_ids = torch.tensor([-1])
    return engine


# --- order and growth --------------------------------------------------------------------------------------------------------


def test_batches_end_one_after_the_other_and_sample_is_in_order(engine_of: MakeEngine) -> None:
    engine, asked = engine_of("llama", 4), ask(TEXTS, Sampling(12))
    streamed = list(engine.stream(asked, 0))
    assert [index for index, _ in streamed] == [1, 3, 2, 4, 0], "the shortest prompts first, two groups a batch"
    groups = dict(streamed)
    assert [tokens(groups[i]) for i in range(5)] == [tokens(group) for group in engine.sample(asked, 0)]


def test_requests_may_grow_between_two_groups(engine_of: MakeEngine) -> None:
    engine = engine_of("llama", 4)
    alone = {r.prompt.problem_id: tokens(engine.sample([r], 0)[0]) for r in ask([*TEXTS, "m n b", "v v"], Sampling(12))}
    requests, got = ask(TEXTS[:3], Sampling(12)), {}
    for index, group in engine.stream(requests, 0):
        got[index] = tokens(group)
        if len(got) == 1:
            requests += ask(["m n b"], Sampling(12))
        if len(got) == 4:  # when all the others have been served
            requests += ask(["v v"], Sampling(12))
    assert got == {i: alone[text] for i, text in enumerate([*TEXTS[:3], "m n b", "v v"])}


def test_each_request_is_sampled_in_its_own_way(engine_of: MakeEngine) -> None:
    engine = engine_of("llama")
    kinds = [Sampling(3), Sampling(7, temperature=0), Sampling(3), Sampling(5, 0.7, 0.5), Sampling(9, stop=("e",))]
    mixed = [replace(r, sampling=kind) for r, kind in zip(ask(TEXTS, Sampling(1)), kinds, strict=True)]
    for request, group in zip(mixed, engine.sample(mixed, 0), strict=True):
        assert tokens(group) == tokens(engine.sample([request], 0)[0])
        assert max(len(r.token_ids) for r in group) <= request.sampling.max_tokens
    order = [index for index, _ in engine.stream(mixed, 0)]
    assert order == [2, 0, 1, 3, 4], "those that are sampled alike share a batch"


def test_an_iterator_that_is_closed_early_leaves_the_engine_usable(engine_of: MakeEngine) -> None:
    engine, asked = engine_of("llama", 2), ask(TEXTS, Sampling(12))
    want = [tokens(group) for group in engine.sample(asked, 0)]
    stream = engine.stream(asked, 0)
    next(stream)
    assert [tokens(group) for group in engine.sample(asked, 0)] == want, "another while one is open"
    stream.close()  # type: ignore[attr-defined]
    assert [tokens(group) for group in engine.sample(asked, 0)] == want


def test_stale_versions_are_refused_at_the_call(engine_of: MakeEngine) -> None:
    with pytest.raises(StaleWeightsError, match="policy version 3, but this engine holds 0"):
        engine_of("llama").stream([], 3)


# --- what cannot be served ---------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_and_the_others_are_served(save_model: SaveModel) -> None:
    engine = HfEngine(HfEngine.Options(), save_model("llama"), max_tokens=16)
    assert engine.limit == 16
    asked = [*ask(["a", "q w e r t y"], Sampling(12)), SampleRequest(Prompt("none", "solver", text="a"), (), Sampling(2))]
    asked.append(SampleRequest(Prompt("empty", "solver", text=""), (1,), Sampling(2)))
    got = dict(engine.stream(asked, 0))
    assert len(tokens(got[0])) == 2
    assert got[1] == Failure(
        "a prompt of 6 tokens and a response of up to 12 need more than the 16 tokens that the engine holds: raise the engine's "
        "limit (rollout.engine.max_model_len with vllm) if the model allows it, or lower rollout.max_prompt_tokens or "
        "rollout.max_response_tokens"
    )
    assert got[2] == Failure("problem 'none', view 'solver', has 0 seeds and a prompt of 1 tokens: expected at least 1 of each")
    assert got[3] == Failure("problem 'empty', view 'solver', has 1 seeds and a prompt of 0 tokens: expected at least 1 of each")
    with pytest.raises(RunError, match=r"a prompt of 6 tokens .* need more than the 16 tokens"):
        engine.sample(asked[:2], 0)
    # A model's positions bound it in any case; GPT-2 could not even compute beyond them.
    assert HfEngine(HfEngine.Options(), save_model("gpt2"), max_tokens=1000).limit == 128
    assert HfEngine(HfEngine.Options(), save_model("gpt2")).limit == 128


def test_logprobs_that_are_no_numbers_fail_their_group(save_model: SaveModel) -> None:
    engine = endless(save_model("llama"))
    engine.model.get_input_embeddings().weight.data[6] = float("nan")  # the word "a"
    got = dict(engine.stream(ask(["q w", "a"], Sampling(1)), 0))
    assert len(tokens(got[0])) == 2
    assert isinstance(got[1], Failure)
    assert "problem 'a', view 'solver', is malformed: response 0 has nan as log-prob of token 0" in got[1].reason


# --- deadlines ---------------------------------------------------------------------------------------------------------------


def test_a_batch_past_its_deadline_keeps_the_groups_that_have_ended(
    save_model: SaveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock jumps past the deadline with the tenth token; some groups have ended by then."""
    engine = endless(save_model("llama"))
    now = [100.0]
    draw, calls = hf_batch.Batch._draw, []

    def counted(self: Any, t: int) -> torch.Tensor:
        calls.append(t)
        now[0] = 100.0 if t < 9 else 131.0
        return draw(self, t)

    monkeypatch.setattr(hf_batch.Batch, "_draw", counted)
    for module in (hf, hf_batch):
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    asked = ask(TEXTS, Sampling(1000), num_samples=1)
    said = [tokens(group)[0] for group in engine.sample(sampled(asked, Sampling(10)), 0)]
    stop = next(i for i in said[0] if not all(i in words for words in said))
    engine.stop_ids = torch.tensor([stop])
    calls.clear()
    now[0] = 100.0
    got = dict(engine.stream(asked, 0, timeout_s=30.0))
    assert calls == list(range(10))
    late = Failure("the group did not end within rollout.request_timeout_s = 30.0 s")
    for i, words in enumerate(said):
        if stop in words:
            assert tokens(got[i]) == [words[: words.index(stop) + 1]]
        else:
            assert got[i] == late
    now[0] = 100.0
    assert len(tokens(dict(engine.stream(sampled(asked[:1], Sampling(5)), 0, timeout_s=30.0))[0])) == 1, "it goes on afterwards"


def test_a_model_that_never_ends_meets_the_real_clock(save_model: SaveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its tokens would take ten times as long as it has."""
    engine, draw = endless(save_model("llama"), max_batch_rows=2), hf_batch.Batch._draw

    def slowly(self: Any, t: int) -> torch.Tensor:
        time.sleep(0.005)
        return draw(self, t)

    monkeypatch.setattr(hf_batch.Batch, "_draw", slowly)
    asked = [*ask(["a"], Sampling(2000)), *ask(["q w e"], Sampling(2))]
    got = dict(engine.stream(asked, 0, timeout_s=1.0))
    assert got[0] == Failure("the group did not end within rollout.request_timeout_s = 1.0 s")
    assert len(tokens(got[1])) == 2


# --- memory ------------------------------------------------------------------------------------------------------------------


def out_of_memory_above(engine: HfEngine, max_rows: int, seen: list[int], error: Exception) -> None:
    """The model's forward fails for more than `max_rows` rows, as an allocator would; `seen` gets the rows of its steps."""
    forward = engine.model.forward

    def limited(*args: Any, **kwargs: Any) -> Any:
        rows, width = kwargs["input_ids"].shape
        if width == 1:
            seen.append(rows)
            if rows > max_rows:
                raise error
        return forward(*args, **kwargs)

    engine.model.forward = limited  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
)
def test_a_batch_that_does_not_fit_is_split(save_model: SaveModel, error: Exception) -> None:
    engine = endless(save_model("llama"))
    pairs = ask(["a", "b c", "d e f", "g h i j"], Sampling(8))
    asked = [*pairs, *ask(["k l m n o"], Sampling(8), num_samples=6), *ask(["p q r s t u"], Sampling(8))]
    want = [tokens(group) for group in engine.sample(asked, 0)]
    seen: list[int] = []
    out_of_memory_above(engine, 4, seen, error)
    got = dict(engine.stream(asked, 0))
    assert seen == [16, 8, *[4] * 7, *[4] * 7, 6, *[2] * 7]
    assert got.pop(4) == Failure("out of memory: 6 samples of one prompt, which are never split, do not fit")
    assert {i: tokens(group) for i, group in got.items()} == {i: want[i] for i in (0, 1, 2, 3, 5)}


def test_other_errors_are_not_taken_for_memory(save_model: SaveModel) -> None:
    engine = HfEngine(HfEngine.Options(), save_model("llama"))
    out_of_memory_above(engine, 1, [], RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        engine.sample(ask(["a"], Sampling(4)), 0)


def test_what_the_allocators_say_is_understood() -> None:
    with pytest.raises(RuntimeError) as e:
        torch.empty(1 << 50)
    assert out_of_memory(e.value)
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not out_of_memory(RuntimeError("shape mismatch"))


# --- threads -----------------------------------------------------------------------------------------------------------------


def test_two_threads_are_both_served(save_model: SaveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch by batch: the one that waits for a batch to end is the next."""
    engine = HfEngine(HfEngine.Options(max_batch_rows=2), save_model("llama"))
    asked = {name: sampled(ask(TEXTS, Sampling(12)), Sampling(n)) for name, n in (("one", 12), ("two", 9))}
    want = {name: [tokens(group) for group in engine.sample(requests, 0)] for name, requests in asked.items()}
    got: dict[str, Any] = {}
    streams = {name: engine.stream(requests, 0) for name, requests in asked.items()}
    served: list[str] = []
    generate = hf_batch.Batch.generate

    def noted(self: Any, *args: Any) -> Any:
        served.append(threading.current_thread().name)
        end = time.monotonic() + 60
        while len(served) == 1 and not engine.lock._waiting and time.monotonic() < end:
            time.sleep(0.001)
        return generate(self, *args)

    monkeypatch.setattr(hf_batch.Batch, "generate", noted)

    def serve(name: str) -> None:
        groups: Answers = []
        for pair in streams[name]:
            groups.append(pair)
        got[name] = [tokens(group) for _, group in sorted(groups, key=lambda pair: pair[0])]

    threads = [threading.Thread(target=serve, args=(name,), name=name) for name in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == want
    assert set(served[:2]) == {"one", "two"}, served


def test_new_weights_wait_for_the_batch(save_model: SaveModel) -> None:
    """They are brought from inside a batch, by another thread: the batch ends with the old ones, the next begins with the new."""
    engine = HfEngine(HfEngine.Options(max_batch_rows=2), save_model("llama"))
    asked = ask(["a", "q w e"], Sampling(12, temperature=0))
    old = [tokens(group) for group in engine.sample(asked, 0)]
    generator = torch.Generator().manual_seed(1)
    changed = {name: t + 0.1 * torch.randn(t.shape, generator=generator) for name, t in engine.weights().items()}
    forward, calls, held = engine.model.forward, [], []
    bring = threading.Thread(target=lambda: held.append(engine.load_weights(changed, 1)))

    def watched(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == 3:
            bring.start()
            bring.join(0.2)
            assert bring.is_alive()
        return forward(*args, **kwargs)

    engine.model.forward = watched  # type: ignore[method-assign]
    stream = engine.stream(asked, 0)
    _, first = next(stream)
    bring.join()
    _, second = next(stream)
    assert held == [checksum(changed)]
    assert (tokens(first), [r.policy_version for r in first]) == (old[0], [0, 0])  # type: ignore[union-attr]
    assert tokens(second) != old[1]
    assert [r.policy_version for r in second] == [1, 1]  # type: ignore[union-attr]
