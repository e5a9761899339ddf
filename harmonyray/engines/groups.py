"""What all engines answer a request with: a whole, sound group, or a Failure that says why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from harmonyray.errors import RunError
from harmonyray.types import Failure, Rollout, SampleRequest

ROUNDING = 1e-5  # a log-prob may be this much above 0


def sound_group(request: SampleRequest, rollouts: Sequence[Rollout]) -> tuple[Rollout, ...] | Failure:
    """The rollouts as the request's group, or a Failure that names what is malformed.

    A group has one response a seed, a response at least one token and one log-prob a token, finite and not above 0.
    """
    where = f"the group of problem {request.prompt.problem_id!r}, view {request.prompt.view!r},"
    if len(rollouts) != len(request.seeds):
        return Failure(f"{where} has {len(rollouts)} responses: expected one for each of its {len(request.seeds)} seeds")
    for n, rollout in enumerate(rollouts):
        fault = _fault(rollout)
        if fault:
            return Failure(f"{where} is malformed: response {n} {fault}")
    return tuple(rollouts)


def _fault(rollout: Rollout) -> str:
    """What is wrong with a response; empty if nothing is."""
    if rollout.token_ids.ndim != 1 or rollout.token_ids.shape != rollout.logprobs.shape:
        return f"has {rollout.token_ids.size} tokens and {rollout.logprobs.size} log-probs: expected as many of both"
    if rollout.token_ids.size == 0:
        return "is empty: expected at least one token"
    bad = ~(np.isfinite(rollout.logprobs) & (rollout.logprobs <= ROUNDING))
    if bad.any():
        at = int(bad.argmax())
        return f"has {rollout.logprobs[at]} as log-prob of token {at}: expected a finite number, 0 at most"
    return ""


def refused_request(request: SampleRequest, num_prompt_tokens: int, limit: int | None) -> Failure | None:
    """A Failure for a request without seeds or prompt, or if prompt and response may need more than `limit` tokens (None: there
    is no limit): a response is never just cut. None if the request can be served."""
    if not request.seeds or num_prompt_tokens == 0:
        what = f"{len(request.seeds)} seeds and a prompt of {num_prompt_tokens} tokens"
        return Failure(
            f"problem {request.prompt.problem_id!r}, view {request.prompt.view!r}, has {what}: expected at least 1 of each"
        )
    longest = request.sampling.max_tokens
    if limit is None or num_prompt_tokens + longest <= limit:
        return None
    return Failure(
        f"a prompt of {num_prompt_tokens} tokens and a response of up to {longest} need more than the {limit} tokens "
        "that the engine holds: raise the engine's limit (rollout.engine.max_model_len with vllm) if the model allows it, or "
        "lower rollout.max_prompt_tokens or rollout.max_response_tokens"
    )


def too_late(timeout_s: float | None) -> Failure:
    return Failure(f"the group did not end within rollout.request_timeout_s = {timeout_s} s")


def in_order(groups: Iterable[tuple[int, tuple[Rollout, ...] | Failure]]) -> list[tuple[Rollout, ...]]:
    """All groups of a stream by their requests' order. Raises RunError with the reason of the first Failure."""
    found = {}
    for index, group in groups:
        if isinstance(group, Failure):
            raise RunError(group.reason)
        found[index] = group
    return [found[index] for index in sorted(found)]
