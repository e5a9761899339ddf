"""The samples that vLLM generates for all streams of one engine: which go to it next, and whose a finished one is.

Every sample is a request of vLLM's own with its own seed. No more go to vLLM than it runs at once, so that a group's time begins
when the group does. Whoever calls holds the engine's lock; only `Stream.closed` may be set without it.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harmonyray.types import SampleRequest


@dataclass(eq=False, slots=True)
class Group:
    """One request of a stream. `versions`: the policy versions under which its samples, in order, were handed to vLLM;
    `running`: which of them vLLM has, by vLLM's request id; `completions`: those that have ended,
    and `last_versions` the policy versions under which they did; `began`: s, monotonic."""

    index: int
    request: SampleRequest
    prompt_ids: list[int]
    began: float = 0.0
    versions: list[int] = field(default_factory=list)
    running: dict[str, int] = field(default_factory=dict)
    completions: dict[int, Any] = field(default_factory=dict)
    last_versions: dict[int, int] = field(default_factory=dict)

    @property
    def handed(self) -> bool:
        """Whether vLLM has been given all of its samples."""
        return len(self.versions) == len(self.request.seeds)


@dataclass(eq=False, slots=True)
class Stream:
    """One caller's groups: those with samples that wait for a place, those with samples that run (a group may be both), and those
    that have ended and were not taken yet. `closed`: the caller has gone, and what is left can be dropped."""

    waiting: deque[Group] = field(default_factory=deque)
    running: dict[Group, None] = field(default_factory=dict)
    ended: list[Group] = field(default_factory=list)
    closed: bool = False


class VllmRequests:
    """`engine` is the vllm.LLMEngine, `num_places` how many samples it runs at once, `stop_ids` the tokens that end one."""

    def __init__(self, engine: Any, num_places: int, stop_ids: Sequence[int]) -> None:
        self.engine, self.num_places, self.stop_ids = engine, num_places, list(stop_ids)
        self._running: dict[str, tuple[Stream, Group]] = {}  # by vLLM's request id
        self._streams: deque[Stream] = deque()  # all that are open; the first is the next to get a place
        self._ids = itertools.count()

    @property
    def num_running(self) -> int:
        return len(self._running)

    def open(self) -> Stream:
        stream = Stream()
        self._streams.append(stream)
        return stream

    def step(self, policy_version: int) -> None:
        """Fills vLLM's places and lets it generate a token for every sample it has; groups that end go to their stream's `ended`.

        `policy_version` is that of the weights that vLLM holds.
        """
        self.drop_closed()
        self._fill(policy_version)
        for output in self.engine.step() if self._running else ():
            if output.finished:
                stream, group = self._running.pop(output.request_id)
                place = group.running.pop(output.request_id)
                group.completions[place], group.last_versions[place] = output.outputs[0], policy_version
                if group.handed and not group.running:
                    del stream.running[group]
                    stream.ended.append(group)

    def take_late(self, stream: Stream, timeout_s: float) -> list[Group]:
        """Takes away the stream's groups that have begun `timeout_s` seconds ago or earlier, and aborts what vLLM has of them."""
        now = time.monotonic()
        late = [group for group in stream.running if now - group.began >= timeout_s]
        self._abort(late)
        for group in late:
            del stream.running[group]
            if not group.handed:
                stream.waiting.remove(group)
        return late

    def drop_closed(self) -> None:
        """Aborts what vLLM has of streams that were closed."""
        for stream in [s for s in self._streams if s.closed]:
            self._abort(stream.running)
            self._streams.remove(stream)

    def _abort(self, groups: Iterable[Group]) -> None:
        ids = [name for group in groups for name in group.running]
        for name in ids:
            del self._running[name]
        self.engine.abort_request(ids)

    def _fill(self, policy_version: int) -> None:
        """Gives the free places to the streams in turn, a group at a time; one that got too few is the first to get the next."""
        idle = 0  # streams in a row that had nothing
        while len(self._running) < self.num_places and idle < len(self._streams):
            stream = self._streams[0]
            if stream.waiting:
                idle = 0
                self._hand(stream, stream.waiting[0], policy_version)
                if not stream.waiting[0].handed:
                    return
                stream.waiting.popleft()
            else:
                idle += 1
            self._streams.rotate(-1)

    def _hand(self, stream: Stream, group: Group, policy_version: int) -> None:
        """Hands vLLM as many of the group's samples as there are places."""
        from vllm.inputs.engine import tokens_input

        if not group.versions:
            group.began = time.monotonic()
        stream.running[group] = None
        for place in range(len(group.versions), len(group.request.seeds)):
            if len(self._running) == self.num_places:
                return
            name = str(next(self._ids))
            self.engine.add_request(name, tokens_input(group.prompt_ids), self._params(group, place))
            group.versions.append(policy_version)
            group.running[name] = place
            self._running[name] = (stream, group)

    def _params(self, group: Group, place: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = group.request.sampling
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=group.request.seeds[place],
            logprobs=0,  # the sampled token's only
            flat_logprobs=True,
            stop=list(sampling.stop),
            stop_token_ids=self.stop_ids,
            detokenize=bool(sampling.stop),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
