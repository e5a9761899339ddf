"""Stopping, prompts, versions and weights of the transformers engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from harmonyray.engines.hf import HfEngine
from harmonyray.engines.weights import checksum
from harmonyray.errors import ModelError, StaleWeightsError
from harmonyray.types import Prompt, Rollout, SampleRequest, Sampling

MakeEngine = Callable[..., HfEngine]
SaveModel = Callable[..., str]
GREEDY = Sampling(20, temperature=0)
SUM = "SOLVE: 52-37\n"


def new_engine(path: str, dtype: str = "float32") -> HfEngine:
    return HfEngine(HfEngine.Options(), path, dtype)


def sample(engine: HfEngine, text: str, sampling: Sampling, num_samples: int = 1) -> tuple[Rollout, ...]:
    prompt = Prompt("p", "solver", text=text)
    (group,) = engine.sample([SampleRequest(prompt, tuple(range(num_samples)), sampling)], engine.policy_version)
    return group


# --- stopping --------------------------------------------------------------------------------------------------------


def test_stop_token_ends_a_sample_and_is_kept(engine_of: MakeEngine) -> None:
    engine = engine_of("quickstart")
    group = sample(engine, SUM, Sampling(64), num_samples=40)
    stopped = [r for r in group if r.finish_reason == "stop"]
    assert len(stopped) >= 30
    assert len({len(r.token_ids) for r in stopped}) > 1
    for rollout in stopped:
        assert rollout.token_ids[-1] == engine.tokenizer.eos_token_id
        assert engine.tokenizer.eos_token_id not in rollout.token_ids[:-1]
        assert len(rollout.logprobs) == len(rollout.token_ids)
        assert rollout.token_ids.dtype == rollout.prompt_ids.dtype == np.int64
        assert rollout.logprobs.dtype == np.float32
        assert rollout.text == engine.tokenizer.decode(rollout.token_ids[:-1])


def test_length_limit(engine_of: MakeEngine) -> None:
    engine = engine_of("quickstart")
    (full,) = sample(engine, SUM, GREEDY)
    n = len(full.token_ids)
    assert full.finish_reason == "stop"
    (cut,) = sample(engine, SUM, Sampling(n - 1, temperature=0))
    assert cut.finish_reason == "length"
    assert cut.token_ids.tolist() == full.token_ids[:-1].tolist()
    assert cut.text == full.text
    # The stop token as the last one allowed is a stop.
    (exact,) = sample(engine, SUM, Sampling(n, temperature=0))
    assert exact.finish_reason == "stop"
    assert exact.token_ids.tolist() == full.token_ids.tolist()
    (single,) = sample(engine, SUM, Sampling(1, temperature=0))
    assert single.token_ids.tolist() == full.token_ids[:1].tolist()


def test_every_stop_token_of_the_generation_config_stops(save_model: SaveModel, engine_of: MakeEngine) -> None:
    (plain,) = sample(engine_of("llama"), "q w e", GREEDY)
    ids = plain.token_ids.tolist()
    # An ordinary word that greedy decoding reaches after some others.
    stop = next(i for n, i in enumerate(ids) if n >= 3 and i not in ids[:n])
    engine = new_engine(save_model("llama", stop_ids=(1, stop)))
    (rollout,) = sample(engine, "q w e", GREEDY)
    assert rollout.token_ids.tolist() == ids[: ids.index(stop) + 1]
    assert rollout.finish_reason == "stop"
    # The text is without the stop token although the tokenizer does not call it special.
    assert rollout.text == engine.tokenizer.decode(ids[: ids.index(stop)], skip_special_tokens=True)
    # The tokenizer's own eos stops too where the model only names another.
    assert new_engine(save_model("llama", stop_ids=(stop,))).stop_ids.tolist() == sorted([1, stop])


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_a_stop_text_ends_the_response_before_it(engine_of: MakeEngine) -> None:
    """The same seeds give the same tokens up to the stop text, which the text leaves out and the tokens keep."""
    engine = engine_of("quickstart")
    stop = "SOLUTION: "
    free = sample(engine, "REFRAME: 52-37\n", Sampling(64), num_samples=24)
    cut = sample(engine, "REFRAME: 52-37\n", Sampling(64, stop=("never said", stop)), num_samples=24)
    assert sum(stop in r.text for r in free) >= 20
    for whole, part in zip(free, cut, strict=True):
        n = len(part.token_ids)
        assert part.token_ids.tolist() == whole.token_ids[:n].tolist()
        assert part.logprobs.tolist() == whole.logprobs[:n].tolist()
        assert part.text == whole.text.partition(stop)[0]
        assert part.finish_reason == ("stop" if stop in whole.text else whole.finish_reason)
        if stop in whole.text:
            assert engine.tokenizer.decode(part.token_ids).endswith(stop)


def test_a_stop_text_of_several_tokens_and_one_that_comes_at_once(engine_of: MakeEngine) -> None:
    engine = engine_of("quickstart")
    (whole,) = sample(engine, SUM, GREEDY)
    (cut,) = sample(engine, SUM, Sampling(20, temperature=0, stop=(whole.text[3:8],)))
    assert (cut.text, cut.finish_reason) == (whole.text[:3], "stop")
    assert engine.tokenizer.decode(cut.token_ids) == whole.text[:8]
    (empty,) = sample(engine, SUM, Sampling(20, temperature=0, stop=(whole.text[0],)))
    assert (empty.text, len(empty.token_ids)) == ("", 1)


def test_a_response_prefix_is_continued_and_not_repeated(engine_of: MakeEngine) -> None:
    engine = engine_of("quickstart")
    (whole,) = sample(engine, SUM, GREEDY)
    prompt = Prompt("p", "solver", text=SUM, response_prefix=whole.text[:5])
    ((rest,),) = engine.sample([SampleRequest(prompt, (0,), GREEDY)], 0)
    assert rest.text == whole.text[5:]
    assert engine.tokenizer.decode(rest.prompt_ids) == SUM + whole.text[:5]


def test_rollouts_carry_their_prompt_in_the_requests_order(engine_of: MakeEngine) -> None:
    engine = engine_of("llama")
    texts = ["q w e r t y", "a", "z x c"]
    requests = [SampleRequest(Prompt(text, "solver", text=text), (1, 2), Sampling(4)) for text in texts]
    got = engine.sample(requests, 0)
    for text, request, group in zip(texts, requests, got, strict=True):
        assert [r.prompt for r in group] == [request.prompt] * 2
        assert [r.prompt_ids.tolist() for r in group] == [engine.tokenizer(text)["input_ids"]] * 2
        assert [r.policy_version for r in group] == [0, 0]
    assert engine.count_tokens([r.prompt for r in requests]) == [6, 1, 3]


def test_plain_text_gets_the_bos_that_the_model_is_used_to(save_model: SaveModel, engine_of: MakeEngine) -> None:
    engine = new_engine(save_model("llama", adds_bos=True))
    (rollout,) = sample(engine, "q w e", GREEDY)
    assert rollout.prompt_ids.tolist() == [2, *engine_of("llama").tokenizer("q w e")["input_ids"]]
    assert engine.count_tokens([rollout.prompt]) == [4]


def test_chat_messages_go_through_the_template(save_model: SaveModel) -> None:
    engine = new_engine(save_model("llama", adds_bos=True, chat=True))
    messages = ({"role": "user", "content": "q w"}, {"role": "assistant", "content": "e"}, {"role": "user", "content": "r"})
    prompt = Prompt("p", "solver", messages=messages)
    # One bos (the template's, none from the tokenizer on top), the turns, and the opening of the answer.
    words = ["<bos>", "user", "q", "w", "assistant", "e", "user", "r", "assistant"]
    want = engine.tokenizer.convert_tokens_to_ids(words)
    assert engine.count_tokens([prompt]) == [len(words)]
    (group,) = engine.sample([SampleRequest(prompt, (0,), GREEDY)], 0)
    assert group[0].prompt_ids.tolist() == want
    (same,) = sample(engine, " ".join(words[1:]), GREEDY)
    assert same.prompt_ids.tolist() == want
    assert group[0].token_ids.tolist() == same.token_ids.tolist()


def test_template_options_and_prefix_reach_the_chat_template(save_model: SaveModel) -> None:
    engine = new_engine(save_model("llama", chat=True))
    engine.tokenizer.chat_template += "{% if think is defined %}{{ 'z' if think else 'y' }} {% endif %}"
    plain = Prompt("p", "solver", messages=({"role": "user", "content": "q"},))
    first = engine.count_tokens([plain])[0]
    for think, word in ((True, "z"), (False, "y")):
        prompt = replace(plain, template_options={"think": think}, response_prefix="a b")
        ((rollout,),) = engine.sample([SampleRequest(prompt, (0,), GREEDY)], 0)
        assert len(rollout.prompt_ids) == first + 3
        assert engine.tokenizer.decode(rollout.prompt_ids).split()[-3:] == [word, "a", "b"]


def test_chat_messages_without_a_template_name_the_view(engine_of: MakeEngine) -> None:
    prompt = Prompt("p", "reframer", messages=({"role": "user", "content": "q"},))
    with pytest.raises(ModelError, match=r"view 'reframer' .* no chat template"):
        engine_of("llama").count_tokens([prompt])


# --- versions and weights --------------------------------------------------------------------------------------------


def changed(engine: HfEngine) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: t + 0.1 * torch.randn(t.shape, generator=generator) for name, t in engine.weights().items()}


def test_stale_versions_are_refused(save_model: SaveModel) -> None:
    engine = new_engine(save_model("llama"))
    request = [SampleRequest(Prompt("p", "solver", text="a"), (0,), GREEDY)]
    with pytest.raises(StaleWeightsError, match="policy version 1, but this engine holds 0"):
        engine.sample(request, 1)
    engine.load_weights(engine.weights(), 3)
    assert engine.sample(request, 3)[0][0].policy_version == 3
    for version in (0, 2, 4):
        with pytest.raises(StaleWeightsError, match=f"policy version {version}, but this engine holds 3"):
            engine.sample(request, version)


@pytest.mark.parametrize("name", ["llama", "qwen2_tied"])
def test_loaded_weights_are_those_used(save_model: SaveModel, name: str) -> None:
    engine = new_engine(save_model(name))
    original = {key: t.clone() for key, t in engine.weights().items()}
    before = sample(engine, "q w e r", Sampling(20), 8)
    other = changed(engine)
    assert engine.load_weights(other, 1) == checksum(other)
    after = sample(engine, "q w e r", Sampling(20), 8)
    assert [r.token_ids.tolist() for r in after] != [r.token_ids.tolist() for r in before]
    # A model that was built with these weights answers the same.
    twin = new_engine(save_model(name, seed=5))
    assert twin.load_weights(other, 0) == checksum(other)
    assert [r.token_ids.tolist() for r in sample(twin, "q w e r", Sampling(20), 8)] == [r.token_ids.tolist() for r in after]
    with torch.no_grad():
        ids = torch.tensor([[7, 8, 9]], device=engine.model.device)
        assert torch.equal(engine.model(input_ids=ids).logits, twin.model(input_ids=ids).logits)
    assert engine.load_weights(original, 2) == checksum(original)
    again = sample(engine, "q w e r", Sampling(20), 8)
    assert [r.token_ids.tolist() for r in again] == [r.token_ids.tolist() for r in before]


def test_tied_weights_travel_once_and_reach_both_ends(save_model: SaveModel) -> None:
    engine = new_engine(save_model("qwen2_tied"))
    assert "lm_head.weight" not in engine.weights()
    new = torch.full_like(engine.weights()["model.embed_tokens.weight"], 0.25)
    engine.load_weights({"model.embed_tokens.weight": new}, 1)
    for end in (engine.model.get_input_embeddings(), engine.model.get_output_embeddings()):
        assert [torch.equal(p, new) for p in end.parameters()] == [True]


def test_unknown_names_change_nothing(save_model: SaveModel) -> None:
    engine = new_engine(save_model("llama"))
    held = checksum(engine.weights())
    with pytest.raises(KeyError, match=r"model\.surplus"):
        engine.load_weights({**changed(engine), "model.surplus": torch.zeros(1)}, 1)
    assert engine.policy_version == 0
    assert checksum(engine.weights()) == held


def test_a_partial_load_shows_in_the_checksum(save_model: SaveModel) -> None:
    engine = new_engine(save_model("llama"))
    other = changed(engine)
    dropped = list(other)[3]
    sent = checksum(other)
    assert engine.load_weights({name: t for name, t in other.items() if name != dropped}, 1) != sent


def test_bfloat16(save_model: SaveModel) -> None:
    engine, exact = new_engine(save_model("llama"), "bfloat16"), new_engine(save_model("llama"))
    assert {t.dtype for t in engine.weights().values()} == {torch.bfloat16}
    (group,) = engine.sample([SampleRequest(Prompt("p", "v", text="q w e"), tuple(range(6)), Sampling(8))], 0)
    for rollout in group:
        assert rollout.logprobs.dtype == np.float32
        ids = torch.tensor([rollout.prompt_ids.tolist() + rollout.token_ids.tolist()], device=exact.model.device)
        with torch.no_grad():
            full = torch.log_softmax(exact.model(input_ids=ids).logits[0, 2:-1], -1).cpu()
        want = full[torch.arange(len(full)), torch.from_numpy(rollout.token_ids)]
        assert rollout.logprobs == pytest.approx(want.numpy(), abs=0.2)
    with pytest.raises(AssertionError):
        # Weights of another precision cannot arrive unaltered.
        assert engine.load_weights(exact.weights(), 1) == checksum(exact.weights())
