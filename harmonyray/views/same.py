"""Views that ask the same thing twice over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harmonyray.protocols import StagedView, View
from harmonyray.types import Problem, Prompt

NUM_COMPARED = 4


def same_prompts(views: Sequence[View], problems: Sequence[Problem], apart: Sequence[Any] | None = None) -> list[tuple[str, str]]:
    """Pairs of names of views, in their order, whose prompts for each of the first few problems are the same.

    `apart` [V] tells views apart whatever they ask: their sampling and their model, say. Such a pair is one view twice: worth a
    warning, and no error. A view that asks twice is compared by both of its questions. Raises what `render` raises
    (ProblemError).
    """
    compared = problems[:NUM_COMPARED]
    asked = [[_asked(view, problem) for problem in compared] for view in views]
    return [
        (views[a].name, views[b].name)
        for a in range(len(views))
        for b in range(a + 1, len(views))
        if compared and asked[a] == asked[b] and (apart is None or apart[a] == apart[b])
    ]


def _asked(view: View, problem: Problem) -> list[Any]:
    second = [_words(view.follow_up(problem, ""))] if isinstance(view, StagedView) else []
    return [_words(view.render(problem)), *second]


def _words(prompt: Prompt) -> tuple[Any, ...]:
    """All of a prompt but the names on it."""
    messages = [dict(message) for message in prompt.messages]
    return prompt.text, messages, dict(prompt.template_options), prompt.response_prefix
