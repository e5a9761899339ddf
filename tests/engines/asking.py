"""Requests for the tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from harmonyray.types import SampleRequest, Sampling


def sampled(requests: Iterable[SampleRequest], sampling: Sampling) -> list[SampleRequest]:
    """The requests, sampled in this way."""
    return [replace(request, sampling=sampling) for request in requests]
