"""How prompts are put: chat messages, template options, system message, response prefix; and thinking, which no view reads."""

from __future__ import annotations

from typing import Any

import pytest

from harmonyray.errors import ConfigError
from harmonyray.registry import BUILT_IN, make_options, resolve
from harmonyray.types import ParsedResponse, Problem, Prompt

PROBLEM = Problem("p", "How many?", rewordings={"rewording": "What number of them?"})
NEEDED: dict[str, dict[str, Any]] = {"persona": {"persona": "You are terse."}, "prompt": {"template": "<{question}>"}}
ALL = sorted(BUILT_IN["views"])
ONCE = [name for name in ALL if name != "staged_reframer"]
SECTIONS = "STRATEGY: Reverse\nREWRITTEN PROBLEM: Which number?\nSOLUTION: "


def view(name: str, **options: Any) -> Any:
    return resolve("views", name)("mine", make_options("views", name, "views.mine", NEEDED.get(name, {}) | options))


@pytest.mark.parametrize("name", ALL)
def test_chat_options_reach_the_prompt(name: str) -> None:
    prompt = view(name, chat=True, template_options={"enable_thinking": False}).render(PROBLEM)
    assert prompt.text is None
    assert prompt.messages[-1]["role"] == "user"
    assert prompt.template_options == {"enable_thinking": False}
    assert prompt.response_prefix == ""


@pytest.mark.parametrize("name", ALL)
def test_a_system_message_comes_first(name: str) -> None:
    messages = view(name, chat=True, system="Be kind to {question}.").render(PROBLEM).messages
    assert [message["role"] for message in messages] == ["system", "user"]
    assert messages[0]["content"].endswith("Be kind to {question}.")  # no template: nothing is replaced in it


@pytest.mark.parametrize("name", ALL)
def test_every_view_can_be_built_with_its_defaults_as_they_are_written_out(name: str) -> None:
    """What a resolved configuration holds is accepted again."""
    options = make_options("views", name, "views.mine", NEEDED.get(name, {}))
    assert make_options("views", name, "views.mine", options.model_dump(mode="json")) == options


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize("chat", [True, False])
def test_the_response_prefix_goes_with_the_prompt_and_not_into_it(name: str, chat: bool) -> None:
    plain, prefixed = view(name, chat=chat), view(name, chat=chat, response_prefix="STRATEGY:")
    assert prefixed.render(PROBLEM).response_prefix == "STRATEGY:"
    assert prefixed.render(PROBLEM).text == plain.render(PROBLEM).text
    assert prefixed.render(PROBLEM).messages == plain.render(PROBLEM).messages


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("system", "Be kind.", r"'views\.mine\.system'.*'chat' is false: set chat to true, or write it into the template"),
        ("template_options", {"a": 1}, r"'views\.mine\.template_options'.*'chat' is false: set chat to true, or leave it out"),
    ],
)
def test_what_only_a_chat_template_reads_needs_chat(name: str, option: str, value: Any, message: str) -> None:
    for chat in ({}, {"chat": False}):
        with pytest.raises(ConfigError, match=message):
            make_options("views", name, "views.mine", {**NEEDED.get(name, {}), **chat, option: value})


@pytest.mark.parametrize("key", ["tokenize", "add_generation_prompt", "return_dict", "conversation", "continue_final_message"])
def test_what_the_engine_sets_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"'{key}' is the engine's to set"):
        make_options("views", "solver", "views.mine", {"chat": True, "template_options": {key: True}})


# --- the prefix is part of the response, thinking is not ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize(
    ("prefix", "response", "answer"),
    [
        pytest.param("", "<think>\\boxed{1}</think>\\boxed{2}", "2", id="thinking"),
        pytest.param("", "<think>\\boxed{1}", None, id="never-closed"),
        pytest.param("<think>\n", "\\boxed{1}</think>\\boxed{2}", "2", id="opened-by-the-prefix"),
        pytest.param("<think>\n", "so it is \\boxed{1}, or", None, id="opened-by-the-prefix-never-closed"),
        pytest.param("<think>\n", "\\boxed{1}</think>I give up", None, id="a-box-in-the-thinking-only"),
        pytest.param("<think>\n\n</think>\n", "\\boxed{2}", "2", id="thinking-skipped-by-the-prefix"),
        pytest.param("The result is \\boxed{", "2}.", "2", id="a-box-opened-by-the-prefix"),
        pytest.param("\\boxed{1} is wrong. ", "It is \\boxed{2}", "2", id="the-response-has-the-last-word"),
    ],
)
def test_answers_with_thinking_and_prefix(name: str, prefix: str, response: str, answer: str | None) -> None:
    assert view(name, response_prefix=prefix).parse(PROBLEM, response).answer == answer


@pytest.mark.parametrize(
    ("prefix", "response"),
    [
        ("", SECTIONS + "\\boxed{2}"),
        ("STRATEGY:", SECTIONS.removeprefix("STRATEGY:") + "\\boxed{2}"),
        ("<think>\n", "STRATEGY: wrong\nREWRITTEN PROBLEM: wrong\nSOLUTION: \\boxed{1}</think>\n" + SECTIONS + "\\boxed{2}"),
        (SECTIONS, "\\boxed{2}"),
    ],
)
def test_sections_with_thinking_and_prefix(prefix: str, response: str) -> None:
    parsed = view("reframer", response_prefix=prefix).parse(PROBLEM, response)
    assert parsed == ParsedResponse("2", missing=0.0, copied=0.0, rewritten="Which number?", strategy="Reverse")


def test_the_prompt_of_a_chat_in_full() -> None:
    options = {"template": "Q: {question}", "chat": True, "system": "S", "template_options": {"x": 1}, "response_prefix": "A:"}
    assert view("solver", **options).render(PROBLEM) == Prompt(
        problem_id="p",
        view="mine",
        text=None,
        messages=({"role": "system", "content": "S"}, {"role": "user", "content": "Q: How many?"}),
        template_options={"x": 1},
        response_prefix="A:",
    )
