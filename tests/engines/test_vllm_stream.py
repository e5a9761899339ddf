"""Streaming with vLLM: places and deadlines, growing requests, threads, weights that change under running requests, leaving."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from asking import TEXTS, ask, sampled, tokens
from vllm_process import KV_CACHE_GIB, RemoteEngine, VllmProcess, needs_vllm

from harmonyray.engines.hf import HfEngine
from harmonyray.errors import RunError, StaleWeightsError
from harmonyray.types import Failure, Prompt, Rollout, SampleRequest, Sampling

pytestmark = needs_vllm

SaveModel = Callable[..., str]
Group = tuple[Rollout, ...] | Failure


@pytest.fixture(scope="module")
def path(save_model: SaveModel) -> str:
    return save_model("llama_wide_heads")


@pytest.fixture(scope="module")
def hf(path: str) -> HfEngine:
    return HfEngine(HfEngine.Options(), path)


@pytest.fixture(scope="module")
def narrow(vllm_process: VllmProcess, path: str) -> RemoteEngine:
    """An engine that runs four samples at once. Its weights stay as they were loaded."""
    return vllm_process.engine(path, max_num_seqs=4, max_model_len=1024)


def run(engine: RemoteEngine, code: str, **names: Any) -> Any:
    """What `result` is after `code` beside the engine, which is `engine` there; `clean` checks that vLLM has nothing left."""
    head = f"engine = {engine._name}\nscheduler = engine.engine.engine_core.engine_core.scheduler\n"
    foot = (
        "\nclean = (engine._requests.num_running, engine.engine.has_unfinished_requests(), scheduler.has_unfinished_requests())"
    )
    answer, clean = engine._process.run(head + code + foot + "\nresult = (result, clean)", **names)
    assert clean == (0, False, False)
    return answer


STREAM = "result = list(engine.stream(asked, 0, timeout_s))"


def test_stream_gives_what_sample_gives_in_the_order_of_ending(narrow: RemoteEngine) -> None:
    asked = ask(TEXTS, Sampling(12), num_samples=3)
    streamed = run(narrow, STREAM, asked=asked, timeout_s=None)
    assert sorted(index for index, _ in streamed) == list(range(5))
    groups = dict(streamed)
    assert [tokens(groups[i]) for i in range(5)] == [tokens(group) for group in narrow.sample(asked, 0)]
    lengths = [3, 1, 1, 1]
    short_last = [SampleRequest(r.prompt, r.seeds[:1], Sampling(n, 0)) for r, n in zip(asked, lengths, strict=False)]
    assert [index for index, _ in run(narrow, STREAM, asked=short_last, timeout_s=None)] == [1, 2, 3, 0]


def test_no_more_samples_are_in_vllm_than_it_runs_and_no_place_idles(narrow: RemoteEngine) -> None:
    """Seven samples of exactly ten tokens in four places: a group that finds too few places begins with those that there are."""
    code = """
seen = []
step = engine.engine.step
def counted():
    seen.append((len(scheduler.running) + len(scheduler.waiting), len(scheduler.waiting)))
    return step()
engine.engine.step = counted
try:
    list(engine.stream(asked, 0))
finally:
    engine.engine.step = step
result = seen
"""
    asked = sampled(ask(TEXTS[:2], Sampling(1), 3) + ask(TEXTS[2:3], Sampling(1), 1), Sampling(10, temperature=0))
    free = dict(run(narrow, STREAM, asked=asked, timeout_s=None))
    assert {len(ids) for group in free.values() for ids in tokens(group)} == {10}
    seen = run(narrow, code, asked=asked)
    assert [total for total, _ in seen] == [4] * 10 + [3] * 10
    assert [waiting for _, waiting in seen if waiting] == [4, 3], "they wait for the step that begins them only"


def test_requests_may_grow_between_two_groups(narrow: RemoteEngine) -> None:
    code = """
got, requests = {}, list(first)
for index, group in engine.stream(requests, 0):
    got[index] = group
    if len(got) == 1:
        requests.append(second)
    if len(got) == 4:
        requests.append(third)
result = got
"""
    asked = ask(TEXTS, Sampling(12))
    got = run(narrow, code, first=asked[:3], second=asked[3], third=asked[4])
    assert {i: tokens(group) for i, group in got.items()} == {i: tokens(group) for i, group in enumerate(narrow.sample(asked, 0))}


# --- deadlines and other failures --------------------------------------------------------------------------------------------


CLOCK = """
from unittest.mock import patch
from harmonyray.engines import vllm_requests
steps = [0]
step = engine.engine.step
def counted():
    steps[0] += 1
    return step()
engine.engine.step = counted
try:
    with patch.object(vllm_requests.time, "monotonic", lambda: float(steps[0])):
        result = list(engine.stream(asked, 0, timeout_s))
finally:
    engine.engine.step = step
"""


def test_the_deadline_counts_from_a_groups_own_beginning(narrow: RemoteEngine) -> None:
    """The clock counts steps. Three groups of four samples with ten tokens follow each other in the four places."""
    asked = ask(TEXTS[:3], Sampling(10, temperature=0), 4)
    whole = run(narrow, CLOCK, asked=asked, timeout_s=11.0)
    assert [(i, {len(ids) for ids in tokens(group)}) for i, group in whole] == [(0, {10}), (1, {10}), (2, {10})]
    late = Failure("the group did not end within rollout.request_timeout_s = 9.0 s")
    assert run(narrow, CLOCK, asked=asked, timeout_s=9.0) == [(0, late), (1, late), (2, late)]
    # Six samples: the last two wait for a place when the time is up. The next group takes over.
    mixed = [*ask(TEXTS[:1], Sampling(10, temperature=0), 6), *ask(TEXTS[1:2], Sampling(3, temperature=0), 4)]
    (first, failed), (second, group) = run(narrow, CLOCK, asked=mixed, timeout_s=9.0)
    assert (first, failed, second) == (0, late, 1)
    assert [len(ids) for ids in tokens(group)] == [3] * 4


SLOW = """
import time
step = engine.engine.step
def slow():
    time.sleep(0.01)
    return step()
engine.engine.step = slow
try:
    result = list(engine.stream(asked, 0, timeout_s))
finally:
    engine.engine.step = step
"""


def test_a_model_that_never_ends_meets_the_real_clock(narrow: RemoteEngine, hf: HfEngine) -> None:
    """All its tokens would take ten times as long as it has."""
    long = ask(["a"], Sampling(1000, temperature=0))
    assert [r.finish_reason for r in hf.sample(long, 0)[0]] == ["length"] * 2
    got = run(narrow, SLOW, asked=[*long, *ask(["z x c"], Sampling(3, temperature=0))], timeout_s=1.0)
    assert got[-1] == (0, Failure("the group did not end within rollout.request_timeout_s = 1.0 s"))
    assert len(tokens(got[0][1])) == 2


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("c.finish_reason = 'abort'", "vLLM ended a response with 'abort': expected 'stop' or 'length'"),
        ("c.logprobs.logprobs.pop()", "is malformed: response 1 has 5 tokens and 4 log-probs: expected as many of both"),
        ("c.logprobs.logprobs[2] = float('nan')", "response 1 has nan as log-prob of token 2: expected a finite number"),
    ],
)
def test_what_vllm_should_not_answer_fails_its_group(narrow: RemoteEngine, damage: str, reason: str) -> None:
    code = f"""
step = engine.engine.step
def damaged():
    outputs = step()
    for output in outputs:
        if output.request_id.startswith(spoiled):
            c = output.outputs[0]
            {damage}
    return outputs
engine.engine.step = damaged
spoiled = str(int(next(engine._requests._ids)) + 2)
try:
    result = list(engine.stream(asked, 0))
finally:
    engine.engine.step = step
"""
    got = dict(run(narrow, code, asked=ask(TEXTS[:2], Sampling(5, temperature=0))))
    assert isinstance(got[0], Failure)
    assert reason in got[0].reason
    assert len(tokens(got[1])) == 2


def test_what_does_not_fit_is_refused_and_the_others_are_served(narrow: RemoteEngine) -> None:
    asked = [
        *ask(["a", "q w e"], Sampling(1022, stop=("a", "e", "r"))),
        SampleRequest(Prompt("p", "v", text=""), (1,), Sampling(2)),
    ]
    got = dict(run(narrow, STREAM, asked=asked, timeout_s=None))
    assert len(tokens(got[0])) == 2
    assert isinstance(got[1], Failure)
    assert "a prompt of 3 tokens and a response of up to 1022 need more than the 1024 tokens" in got[1].reason
    assert got[2] == Failure("problem 'p', view 'v', has 1 seeds and a prompt of 0 tokens: expected at least 1 of each")
    with pytest.raises(RunError, match=r"need more than the 1024 tokens .*max_model_len"):
        narrow.sample(asked, 0)


MAX_TOKENS = """
from harmonyray.engines.vllm import VllmEngine
lengths = []
for options, max_tokens in cases:
    made = VllmEngine(VllmEngine.Options(kv_cache_gib=gib, **options), model, max_tokens=max_tokens)
    lengths.append(made.engine.model_config.max_model_len)
result = lengths
"""


def test_the_models_length_is_what_the_run_needs(vllm_process: VllmProcess) -> None:
    cases = [({}, 64), ({}, 100_000), ({"max_model_len": 128}, 64), ({}, None)]
    assert vllm_process.run(MAX_TOKENS, cases=cases, gib=KV_CACHE_GIB, model="quickstart") == [64, 512, 128, 512]


# --- threads, weights and leaving --------------------------------------------------------------------------------------------


def changed(hf: HfEngine, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: t + 0.2 * torch.randn(t.shape, generator=generator) for name, t in hf.weights().items()}


IN_FLIGHT = """
stream = engine.stream(asked, 0)
first = next(stream)
held = engine.load_weights(new, 1)
result = (first, held, list(stream))
"""


def test_weights_change_under_running_requests(vllm_process: VllmProcess, path: str, hf: HfEngine) -> None:
    """After four tokens: from there on every token and log-prob is that of the new weights on the same prefix."""
    new = changed(hf, 1)
    theirs = HfEngine(HfEngine.Options(), path)
    engine = vllm_process.engine(path, max_num_seqs=5, max_model_len=256)
    long = ask(["q w e r t y u i o p a s d f g h " * 5, "z x c", "k j h g"], Sampling(24, temperature=0), 1)
    asked = [*ask(["a"], Sampling(4, temperature=0), 1), *long, *ask(["e e"], Sampling(6, temperature=0))]
    first, held, others = run(engine, IN_FLIGHT, asked=asked, new=new)
    old = [tokens(group)[0] for group in hf.sample(asked, 0)]
    assert held == theirs.load_weights(new, 1)
    assert (first[0], tokens(first[1])[0]) == (0, old[0])
    got = dict(others)
    unlike_old = unlike_new = 0
    for i in (1, 2, 3):
        ((rollout,),) = [got[i]]
        ids = rollout.token_ids.tolist()
        assert ids[:4] == old[i][:4]
        assert rollout.policy_version == 0
        with torch.no_grad():
            full = torch.tensor([rollout.prompt_ids.tolist() + ids])
            logits = theirs.model(input_ids=full).logits[0, len(rollout.prompt_ids) - 1 : -1]
        logps = torch.log_softmax(logits.double(), -1)
        assert ids[4:] == logits.argmax(-1)[4:].tolist()
        assert rollout.logprobs[4:] == pytest.approx(logps[torch.arange(len(ids)), full[0, -len(ids) :]][4:].numpy(), abs=1e-4)
        unlike_old += ids != old[i]
        unlike_new += ids[:4] != logits.argmax(-1)[:4].tolist()
    assert (unlike_old, unlike_new) == (3, 3), "or the test says little"
    # The last group's second sample found no place before: the one began with the old weights, the other with the new.
    assert [r.policy_version for r in got[4]] == [0, 1]
    assert got[4][1].token_ids.tolist() == tokens(theirs.sample(asked[4:], 1)[0])[1]


BETWEEN = """
stream = engine.stream(asked, 0)
first = next(stream)
engine.load_weights(new, 1)
result = [first, *stream]
"""


def test_seeded_samples_that_do_not_fit_into_one_step_of_vllm(vllm_process: VllmProcess, path: str, hf: HfEngine) -> None:
    """Prompts of more tokens together than vLLM computes in a step, at first and again when all caches are computed anew under
    way: a CPU's generators cannot be turned back, so no prompt may be computed in pieces."""
    short = {"max_num_seqs": 6, "max_model_len": 256, "engine_args": {"max_num_batched_tokens": 256}}
    engine = vllm_process.engine(path, **short)
    texts = ["q w e r t y u i o p a s d f g h " * 5, "z x c v b n m " * 10, "k j h g f d s a " * 9]
    asked = [*ask(["a"], Sampling(4), 2), *ask(texts, Sampling(40), 2)]
    own_pace = sorted(run(engine, STREAM, asked=asked, timeout_s=None))
    assert all(not isinstance(group, Failure) for _, group in own_pace)
    in_a_row = [engine.sample([one], 0)[0] for one in asked]
    assert [tokens(group) for _, group in own_pace] == [tokens(group) for group in in_a_row]
    mixed = dict(run(engine, BETWEEN, asked=asked, new=changed(hf, 1)))
    assert not any(isinstance(group, Failure) for group in mixed.values())
    assert [len(mixed[i]) for i in range(4)] == [2] * 4
    assert tokens(mixed[1]) != tokens(own_pace[1][1])


THREADS = """
import threading
got = {}
def serve(name):
    got[name] = list(engine.stream(asked[name], 0))
threads = [threading.Thread(target=serve, args=(name,)) for name in asked]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
result = got
"""


def test_two_threads_are_both_served(narrow: RemoteEngine) -> None:
    """Ten groups of each in four places."""
    asked = {n: ask([*TEXTS, *(f"{t} v" for t in TEXTS)], Sampling(n)) for n in (12, 9)}
    got = run(narrow, THREADS, asked=asked)
    for n, requests in asked.items():
        assert [tokens(group) for _, group in sorted(got[n], key=lambda pair: pair[0])] == [
            tokens(group) for group in narrow.sample(requests, 0)
        ]


UPDATES = """
import threading, time
got, held = {}, []
def serve(name):
    got[name] = list(engine.stream(asked[name], 0))
threads = [threading.Thread(target=serve, args=(name,)) for name in asked]
for thread in threads:
    thread.start()
while not engine._requests.num_running:
    time.sleep(0.001)
for version, weights in enumerate((new, old), 1):
    held.append((engine.load_weights(weights, version), [thread.is_alive() for thread in threads]))
for thread in threads:
    thread.join()
result = got, held
"""


def test_weights_arrive_while_two_threads_generate(vllm_process: VllmProcess, path: str, hf: HfEngine) -> None:
    """Wherever the changes fell: each token is the choice of one of the weights (or one as good, within 1e-4), and not all are
    the old one's."""
    weights = {name: t.clone() for name, t in hf.weights().items()}
    theirs, new = HfEngine(HfEngine.Options(), path), changed(hf, 2)
    held_new = theirs.load_weights(new, 1)
    engine = vllm_process.engine(path, max_num_seqs=6, max_model_len=512)
    asked = {n: ask(TEXTS, Sampling(n, temperature=0)) for n in (480, 450)}
    got, held = run(engine, UPDATES, asked=asked, new=new, old=weights)
    assert [checksum for checksum, _ in held] == [held_new, hf.load_weights(weights, 0)]
    assert held[0][1] == [True, True], "the weights did not wait for the requests"
    mixed = 0
    for rollout in (r for pairs in got.values() for _, group in pairs for r in group):
        ids = rollout.token_ids
        full = torch.tensor([rollout.prompt_ids.tolist() + ids.tolist()])
        with torch.no_grad():
            logits = [e.model(input_ids=full).logits[0, len(rollout.prompt_ids) - 1 : -1] for e in (hf, theirs)]
        own = torch.from_numpy(ids.astype(np.int64))[:, None]
        by = [(x.gather(-1, own)[:, 0] >= x.amax(-1) - 1e-4).numpy() for x in logits]
        assert (by[0] | by[1]).all()
        mixed += not by[0].all()
    assert mixed >= 1
    assert engine.get("policy_version") == 2


CLOSE_EARLY = """
stream = engine.stream(asked, 0)
next(stream)
running = engine._requests.num_running
stream.close()
result = running, engine._requests.num_running
engine.state.require("serving", "go on")
"""


def test_an_iterator_that_is_closed_early_takes_its_requests_along(narrow: RemoteEngine) -> None:
    asked = [*ask(["a"], Sampling(1)), *ask(TEXTS, Sampling(900, temperature=0))]
    running, left = run(narrow, CLOSE_EARLY, asked=asked)
    assert (running > 0, left) == (True, 0)
    assert len(narrow.sample(asked[:1], 0)) == 1


STATES = """
from harmonyray.engines.states import EngineStateError
stream = engine.stream(asked, 0)
got = [next(stream)]
try:
    engine.sleep()
except EngineStateError as e:
    refused = str(e)
engine.pause()
got += list(stream)
engine.sleep()
engine.wake()
result = got, refused
"""


def test_a_pause_lets_open_streams_end_and_sleep_needs_them_to(narrow: RemoteEngine) -> None:
    asked = [*ask(["a"], Sampling(1)), *ask(TEXTS[:1], Sampling(9, temperature=0))]
    got, refused = run(narrow, STATES, asked=asked)
    assert [index for index, _ in got] == [0, 1]
    assert refused == "an engine that generates 2 samples cannot become asleep: end its streams first"


def test_stale_versions_are_refused_at_the_call(narrow: RemoteEngine) -> None:
    with pytest.raises(StaleWeightsError, match="policy version 3, but this engine holds 0"):
        run(narrow, "engine.stream([], 3)")


def test_a_samples_seed_is_all_it_depends_on(narrow: RemoteEngine) -> None:
    """Alone, among others, and with other places: the same tokens."""
    asked = ask(TEXTS, Sampling(30), 5)
    groups = dict(run(narrow, STREAM, asked=asked, timeout_s=None))
    for i, request in enumerate(asked):
        one = SampleRequest(request.prompt, request.seeds[3:4], request.sampling)
        assert tokens(narrow.sample([one], 0)[0])[0] == tokens(groups[i])[3]
    assert len({tuple(ids) for group in groups.values() for ids in tokens(group)}) > 20
    assert np.mean([len(ids) for group in groups.values() for ids in tokens(group)]) > 5


CACHED = """
cached = []
step = engine.engine.step
def watched():
    outputs = step()
    cached.extend((len(o.prompt_token_ids), o.num_cached_tokens) for o in outputs if o.finished)
    return outputs
engine.engine.step = watched
try:
    engine.sample(asked, 0)
finally:
    engine.engine.step = step
result = cached
"""


def test_the_samples_of_a_prompt_share_its_whole_blocks(vllm_process: VllmProcess) -> None:
    """Also those that begin in the same step. 32 tokens is the smallest block on a CPU; the quickstart's prompts have 7."""
    engine = vllm_process.engine("quickstart", engine_args={"block_size": 32}, max_num_seqs=4)
    asked = ask(["SOLVE: 52-37\n" * 6, "SOLVE: 98-81\n"], Sampling(1), 6)
    assert sorted(run(engine, CACHED, asked=asked)) == [(7, 0)] * 6 + [(42, 0)] + [(42, 32)] * 5
