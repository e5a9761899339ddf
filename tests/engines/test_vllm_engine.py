"""The vLLM engine does what the transformers engine does: the same greedy tokens, log-probs and texts, before and after updates;
seeds, stops and limits by the same rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from asking import sampled
from vllm_process import RemoteEngine, VllmProcess, needs_vllm

from harmonyray.engines.hf import HfEngine
from harmonyray.engines.weights import checksum
from harmonyray.errors import ModelError, RunError, StaleWeightsError
from harmonyray.types import Prompt, Rollout, SampleRequest, Sampling

pytestmark = needs_vllm

SaveModel = Callable[..., str]
SUMS = ["SOLVE: 52-37\n", "REFRAME: 61-28\n", "SOLVE: 98-81\n", "REFRAME: 75-3", "SOLVE: 41-29\n"]
WORDS = ["a", "b c d", "q w e r t y u i o p a s d f g h", "z x c v b n m", "e e", "k j h g f d s a p o"]
GREEDY = Sampling(24, temperature=0)
SUM = SUMS[0]


def ask(texts: Sequence[str], num_samples: int = 1, seed: int = 0, sampling: Sampling = GREEDY) -> list[SampleRequest]:
    return [
        SampleRequest(Prompt(str(i), "solver", text=text), tuple(range(seed + 100 * i, seed + 100 * i + num_samples)), sampling)
        for i, text in enumerate(texts)
    ]


def tokens(groups: Sequence[Sequence[Rollout]]) -> list[list[list[int]]]:
    return [[r.token_ids.tolist() for r in group] for group in groups]


def gap(a: Sequence[Sequence[Rollout]], b: Sequence[Sequence[Rollout]]) -> float:
    pairs = [(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True)]
    return max(float(np.abs(x.logprobs - y.logprobs).max()) for x, y in pairs)


@torch.no_grad()
def teacher_forced(engine: HfEngine, rollout: Rollout, temperature: float) -> np.ndarray:
    """The log-probs of a response's tokens from one forward over prompt and response."""
    ids = torch.tensor([rollout.prompt_ids.tolist() + rollout.token_ids.tolist()])
    logits = engine.model(input_ids=ids, use_cache=False).logits[0, len(rollout.prompt_ids) - 1 : -1]
    full = torch.log_softmax(logits.double() / temperature, dim=-1)
    return full[torch.arange(len(full)), torch.from_numpy(rollout.token_ids)].numpy()


@pytest.fixture(scope="module")
def engine(vllm_process: VllmProcess) -> RemoteEngine:
    """On the quickstart model, whose embeddings are tied. Its weights stay as they were loaded."""
    return vllm_process.engine("quickstart")


@pytest.fixture(scope="module")
def hf() -> HfEngine:
    return HfEngine(HfEngine.Options(), "quickstart")


# --- the same as transformers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "texts"), [("quickstart", SUMS), ("llama_wide_heads", WORDS)])
def test_greedy_and_sampled_logprobs_before_and_after_ten_updates(
    vllm_process: VllmProcess, save_model: SaveModel, name: str, texts: list[str]
) -> None:
    path = name if name == "quickstart" else save_model(name)
    ours, theirs = HfEngine(HfEngine.Options(), path), vllm_process.engine(path, max_model_len=128)
    generator = torch.Generator().manual_seed(0)
    seen = []
    for version in range(11):
        got, want = theirs.sample(ask(texts), version), ours.sample(ask(texts), version)
        assert tokens(got) == tokens(want), version
        assert [[(r.text, r.finish_reason) for r in group] for group in got] == [
            [(r.text, r.finish_reason) for r in group] for group in want
        ]
        assert gap(got, want) < 1e-4
        for temperature in (1.0, 0.6):
            drawn = theirs.sample(ask(texts, 4, sampling=Sampling(20, temperature)), version)
            for r in (r for group in drawn for r in group):
                assert r.logprobs == pytest.approx(teacher_forced(ours, r, temperature), abs=1e-4)
                assert (r.logprobs.dtype, r.token_ids.dtype, r.policy_version) == (np.float32, np.int64, version)
        seen.append(np.concatenate([group[0].logprobs[:3] for group in got]).tolist())
        new = {
            name: t + 0.05 * t.std(correction=0) * torch.randn(t.shape, generator=generator) for name, t in ours.weights().items()
        }
        assert theirs.load_weights(new, version + 1) == ours.load_weights(new, version + 1) == checksum(new)
        assert theirs.get("policy_version") == version + 1
    assert len({tuple(row) for row in seen}) == 11, "every update shows"


def test_the_file_by_which_a_worker_meets_itself_is_gone(vllm_process: VllmProcess, engine: RemoteEngine) -> None:
    """A process's first engine makes it, and would leave it behind when it is killed."""
    code = """
import pathlib, torch
method = engine_0.engine.model_executor.driver_worker.worker.distributed_init_method
result = method, pathlib.Path(method.removeprefix("file://")).exists(), torch.distributed.is_initialized()
"""
    method, exists, met = vllm_process.run(code)
    assert method.startswith("file:///") and met
    assert not exists


def test_bfloat16_stays_near(vllm_process: VllmProcess, hf: HfEngine) -> None:
    """The tolerance for bfloat16: log-probs within 0.25 of the float32 model's, on what was sampled."""
    engine = vllm_process.engine("quickstart", "bfloat16")
    half = {name: t.bfloat16() for name, t in hf.weights().items()}
    assert engine.load_weights(half, 1) == checksum(half)
    with pytest.raises(ValueError, match=r"is torch\.float32 .*, expected torch\.bfloat16"):
        engine.load_weights(hf.weights(), 2)
    for group in engine.sample(ask(SUMS, 4, sampling=Sampling(20)), 1):
        for r in group:
            assert r.logprobs == pytest.approx(teacher_forced(hf, r, 1.0), abs=0.25)


# --- seeds and batches -------------------------------------------------------------------------------------------------------


def test_a_sample_depends_on_its_seed_alone(engine: RemoteEngine) -> None:
    sampling = Sampling(40)
    asked = ask(SUMS, 6)
    whole = tokens(engine.sample(sampled(asked, sampling), 0))
    assert len({tuple(t) for group in whole for t in group}) > 12
    assert tokens(engine.sample(sampled(asked[::-1], sampling), 0))[::-1] == whole
    for request, want in zip(asked, whole, strict=True):
        assert tokens(engine.sample(sampled([request], sampling), 0)) == [want]
    prompt = asked[2].prompt
    beside = tokens(engine.sample([SampleRequest(prompt, (7, asked[2].seeds[4], 7), sampling)], 0))[0]
    assert beside[1] == whole[2][4]
    assert beside[0] == beside[2]
    large = tokens(engine.sample([SampleRequest(prompt, (2**63 - 1, 2**62 + 5), sampling)], 0))[0]
    assert len(large) == 2


def test_fewer_places_than_samples_change_nothing(vllm_process: VllmProcess, engine: RemoteEngine) -> None:
    narrow = vllm_process.engine("quickstart", max_num_seqs=3, engine_args={"block_size": 32})
    assert tokens(narrow.sample(ask(SUMS, 4, sampling=Sampling(30)), 0)) == tokens(
        engine.sample(ask(SUMS, 4, sampling=Sampling(30)), 0)
    )


def test_frequencies_follow_the_softmax(vllm_process: VllmProcess, save_model: SaveModel) -> None:
    path, n = save_model("llama_wide_heads"), 4000
    (group,) = vllm_process.engine(path, max_model_len=64).sample(
        [SampleRequest(Prompt("p", "v", text="a b c"), tuple(range(n)), Sampling(1, 0.7))], 0
    )
    ours = HfEngine(HfEngine.Options(), path)
    with torch.no_grad():
        logits = ours.model(input_ids=torch.tensor([group[0].prompt_ids.tolist()])).logits[0, -1].double()
    expected = torch.softmax(logits / 0.7, -1).numpy() * n
    counts = np.bincount([r.token_ids[0] for r in group], minlength=32)
    common = expected >= 5
    assert common.sum() >= 5
    assert (((counts - expected) ** 2 / expected)[common]).sum() < common.sum() + 4 * np.sqrt(2 * common.sum())


def test_no_requests(engine: RemoteEngine) -> None:
    assert engine.sample([], 0) == []


# --- stops, limits and prompts -----------------------------------------------------------------------------------------------


def test_the_stop_token_is_kept_and_the_limit_is_a_length(engine: RemoteEngine, hf: HfEngine) -> None:
    ((full,),) = engine.sample(ask([SUM]), 0)
    n = len(full.token_ids)
    assert full.token_ids[-1] == hf.tokenizer.eos_token_id
    assert len(full.logprobs) == n
    for limit, reason in ((n, "stop"), (n - 1, "length"), (1, "length")):
        ((r,),) = engine.sample(ask([SUM], sampling=replace(GREEDY, max_tokens=limit)), 0)
        assert (r.token_ids.tolist(), r.finish_reason) == (full.token_ids[:limit].tolist(), reason)


def test_every_stop_token_of_the_generation_config_stops(vllm_process: VllmProcess, save_model: SaveModel) -> None:
    plain = HfEngine(HfEngine.Options(), save_model("llama_wide_heads"))
    ids = plain.sample(ask(["q w e"]), 0)[0][0].token_ids.tolist()
    stop = next(i for n, i in enumerate(ids) if n >= 3 and i not in ids[:n])
    path = save_model("llama_wide_heads", stop_ids=(stop,))
    engine = vllm_process.engine(path, max_model_len=64)
    assert engine.get("stop_ids") == sorted([1, stop])
    ((got,),), ((want,),) = (e.sample(ask(["q w e"]), 0) for e in (engine, HfEngine(HfEngine.Options(), path)))
    assert got.token_ids.tolist() == want.token_ids.tolist() == ids[: ids.index(stop) + 1]
    assert (got.text, got.finish_reason) == (want.text, "stop")


def test_a_stop_text_ends_the_response_before_it(engine: RemoteEngine) -> None:
    stop = "SOLUTION: "
    asked = ask(["REFRAME: 52-37\n"], 24)
    (free,), (cut,) = (engine.sample(sampled(asked, Sampling(64, stop=s)), 0) for s in ((), ("never said", stop)))
    assert sum(stop in r.text for r in free) >= 20
    for whole, part in zip(free, cut, strict=True):
        n = len(part.token_ids)
        assert part.token_ids.tolist() == whole.token_ids[:n].tolist()
        assert len(part.logprobs) == n
        assert part.text == whole.text.partition(stop)[0]
        assert part.finish_reason == ("stop" if stop in whole.text else whole.finish_reason)


def test_stop_texts_end_where_transformers_ends_them(engine: RemoteEngine, hf: HfEngine) -> None:
    ((whole,),) = hf.sample(ask([SUM]), 0)
    for stop in (whole.text[3:8], whole.text[0], whole.text[-1]):
        sampling = replace(GREEDY, stop=(stop,))
        ((got,),), ((want,),) = (e.sample(ask([SUM], sampling=sampling), 0) for e in (engine, hf))
        assert (got.text, got.token_ids.tolist(), got.finish_reason) == (want.text, want.token_ids.tolist(), "stop")


def test_prompts_are_encoded_alike(vllm_process: VllmProcess, save_model: SaveModel, engine: RemoteEngine, hf: HfEngine) -> None:
    path = save_model("llama_wide_heads", chat=True, adds_bos=True)
    chat, ours = vllm_process.engine(path, max_model_len=128), HfEngine(HfEngine.Options(), path)
    plain = Prompt("p", "solver", messages=({"role": "system", "content": "a"}, {"role": "user", "content": "q"}))
    prompts = [plain, replace(plain, response_prefix="a b"), Prompt("t", "solver", text="q w", response_prefix=" e")]
    requests = [SampleRequest(p, (1,), GREEDY) for p in prompts]
    got, want = chat.sample(requests, 0), ours.sample(requests, 0)
    assert [r.prompt_ids.tolist() for (r,) in got] == [r.prompt_ids.tolist() for (r,) in want]
    assert tokens(got) == tokens(want)
    assert [r.prompt for (r,) in got] == prompts
    assert chat.count_tokens(prompts) == ours.count_tokens(prompts)
    with pytest.raises(ModelError, match=r"view 'solver' .* no chat template"):
        engine.count_tokens([plain])
    assert engine.count_tokens([Prompt("p", "v", text=SUM)]) == hf.count_tokens([Prompt("p", "v", text=SUM)])


def test_a_response_that_would_be_cut_by_the_models_length_is_refused(engine: RemoteEngine) -> None:
    with pytest.raises(RunError, match=r"prompt of 7 tokens and a response of up to 506 need more than the 512 .*max_model_len"):
        engine.sample(ask([SUM], sampling=Sampling(506)), 0)
    assert len(engine.sample(ask([SUM], sampling=Sampling(505)), 0)) == 1


def test_stale_versions_are_refused(engine: RemoteEngine) -> None:
    with pytest.raises(StaleWeightsError, match="policy version 1, but this engine holds 0: broadcast the weights first"):
        engine.sample(ask([SUM]), 1)
