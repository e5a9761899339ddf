"""The memory of encoded prompts: the same tokens, encoded once, and no more of them than it may hold."""

from __future__ import annotations

from typing import Any

import pytest

from harmonyray.engines import prompts
from harmonyray.engines.loading import load_tokenizer
from harmonyray.engines.prompts import PromptTokens, encode_prompt
from harmonyray.types import Prompt


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("quickstart")


def test_a_prompt_is_encoded_once_whoever_asks(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[Prompt] = []
    monkeypatch.setattr(prompts, "encode_prompt", lambda t, p: encoded.append(p) or encode_prompt(t, p))
    encode = PromptTokens(tokenizer)
    first = Prompt("1", "solver", text="SOLVE: 12-3\n")
    again = Prompt("other", "reframer", text="SOLVE: 12-3\n")
    longer = Prompt("1", "solver", text="SOLVE: 12-3\n", response_prefix="9")
    assert encode(first) == encode(again) == encode_prompt(tokenizer, first)
    assert encode(longer) == encode_prompt(tokenizer, longer) != encode(first)
    assert encoded == [first, longer]


def test_the_oldest_are_forgotten(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "MAX_KNOWN", 2)
    encode = PromptTokens(tokenizer)
    a, b, c = (Prompt("p", "v", text=f"SOLVE: {n}\n") for n in (1, 2, 3))
    for prompt in (a, b, a, c):  # b is the oldest when c comes
        assert encode(prompt) == encode_prompt(tokenizer, prompt)
    encoded: list[Prompt] = []
    monkeypatch.setattr(prompts, "encode_prompt", lambda t, p: encoded.append(p) or encode_prompt(t, p))
    for prompt in (a, c, b):
        encode(prompt)
    assert encoded == [b]
    assert len(encode._known) == 2
