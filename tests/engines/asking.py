"""Requests for the tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from harmonyray.types import Failure, Prompt, Rollout, SampleRequest, Sampling

TEXTS = ["q w e r t y u i o p", "a", "z x c", "e e", "k j h g f d s"]


def ask(texts: list[str], sampling: Sampling, num_samples: int = 2) -> list[SampleRequest]:
    """A text's seeds follow from it: the same request wherever it is asked."""
    return [
        SampleRequest(Prompt(t, "solver", text=t), tuple(range(100 * len(t), 100 * len(t) + num_samples)), sampling)
        for t in texts
    ]


def tokens(group: tuple[Rollout, ...] | Failure) -> list[list[int]]:
    assert not isinstance(group, Failure), group.reason
    return [r.token_ids.tolist() for r in group]


def sampled(requests: Iterable[SampleRequest], sampling: Sampling) -> list[SampleRequest]:
    """The requests, sampled in this way."""
    return [replace(request, sampling=sampling) for request in requests]
