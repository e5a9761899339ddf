"""Batched sampling with transformers for any causal language model. A plain class: no ray here.

Requests are served in batches of whole groups; `hf_batch` generates one. A lock keeps batches and new weights apart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import PositiveInt

from harmonyray.engines.groups import in_order, refused_request, sound_group, too_late
from harmonyray.engines.hf_batch import Batch, Sampled
from harmonyray.engines.hf_weights import ReceivesWeights
from harmonyray.engines.loading import load_model, load_tokenizer
from harmonyray.engines.prompts import PromptTokens, end_tokens, refuse_stale, response_text
from harmonyray.engines.turns import Turns
from harmonyray.engines.weights import checksum, named_weights
from harmonyray.registry import PluginOptions
from harmonyray.types import Failure, Prompt, Rollout, SampleRequest


class HfEngine(ReceivesWeights):
    """Generates with transformers. `policy_version` is the version of the weights it holds (0: as loaded).

    `max_tokens` is what a prompt and its response may need together, when known; never more than the model's positions.
    Several threads may use one engine: they take turns, a batch each.
    """

    updates_in_flight: ClassVar[bool] = False
    """Weights change between batches only: `load_weights` waits for the one that runs."""

    class Options(PluginOptions):
        max_batch_rows: PositiveInt = 512

    def __init__(self, options: Options, model: str, dtype: str = "float32", max_tokens: int | None = None) -> None:
        """Raises ModelError if the model or its tokenizer cannot be loaded."""
        self.options = options
        self.tokenizer = load_tokenizer(model)
        self.encode = PromptTokens(self.tokenizer)
        self.model = load_model(model, dtype)
        self.policy_version = 0
        stop_ids = end_tokens(self.tokenizer, self.model.generation_config.eos_token_id)
        self.stop_ids = torch.tensor(stop_ids, device=self.model.device)
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self.limit: int | None = min((n for n in (positions, max_tokens) if n is not None), default=None)
        self.lock = Turns()

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Prompt lengths in tokens."""
        return [len(self.encode(p)) for p in prompts]

    def sample(self, requests: Sequence[SampleRequest], policy_version: int | None) -> list[tuple[Rollout, ...]]:
        """One tuple of rollouts per request, in the requests' order.

        Raises StaleWeightsError if the engine's weights are not those of `policy_version`, RunError for a group that fails.
        """
        return in_order(self.stream(list(requests), policy_version))

    def stream(
        self, requests: list[SampleRequest], policy_version: int | None, timeout_s: float | None = None
    ) -> Iterator[tuple[int, tuple[Rollout, ...] | Failure]]:
        """Groups with their requests' indices, as batches end. `requests` may grow meanwhile.

        A batch that takes longer than `timeout_s` yields what has finished, and Failures for the other groups. One that does not
        fit into memory is split; a group that does not fit alone is a Failure. A rollout has the policy version that its batch
        ran with. Raises StaleWeightsError if the engine's weights are not those of `policy_version` when it is called.
        """
        with self.lock:
            refuse_stale(policy_version, self.policy_version)
        return self._serve(requests, timeout_s)

    def _serve(
        self, requests: list[SampleRequest], timeout_s: float | None
    ) -> Iterator[tuple[int, tuple[Rollout, ...] | Failure]]:
        waiting: dict[int, list[int]] = {}  # the prompt's tokens, by index of the request
        num_seen, max_rows = 0, self.options.max_batch_rows
        while True:
            while num_seen < len(requests):
                request = requests[num_seen]
                ids = self.encode(request.prompt)
                refusal = refused_request(request, len(ids), self.limit)
                if refusal is None:
                    waiting[num_seen] = ids
                else:
                    yield num_seen, refusal
                num_seen += 1
            if not waiting:
                return
            chunk = next_chunk(requests, waiting, max_rows)
            asked = [(requests[i], waiting[i]) for i in chunk]
            ran = self._run(asked, timeout_s)
            num_rows = sum(len(request.seeds) for request, _ in asked)
            if ran is None and len(chunk) > 1:
                max_rows = max(1, num_rows // 2)  # also for what follows: the memory will not be there then either
                continue
            for i in chunk:
                del waiting[i]
            if ran is None:
                yield chunk[0], Failure(f"out of memory: {num_rows} samples of one prompt, which are never split, do not fit")
                continue
            samples, version = iter(ran[0]), ran[1]
            for i, (request, ids) in zip(chunk, asked, strict=True):
                yield i, self._rollouts(request, ids, [next(samples) for _ in request.seeds], version, timeout_s)

    @torch.inference_mode()
    def _run(self, asked: Sequence[tuple[SampleRequest, list[int]]], timeout_s: float | None) -> tuple[list[Sampled], int] | None:
        """One batch's samples, and the policy version it ran with; None if it does not fit into memory."""
        with self.lock:
            deadline = None if timeout_s is None else time.monotonic() + timeout_s
            batch = Batch(self.model, self.tokenizer, self.stop_ids, asked[0][0].sampling)
            try:
                return batch.generate([ids for _, ids in asked], [r.seeds for r, _ in asked], deadline), self.policy_version
            except (RuntimeError, MemoryError) as e:
                if not out_of_memory(e):
                    raise
            del batch
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return None

    def _rollouts(
        self, request: SampleRequest, ids: list[int], samples: Sequence[Sampled], version: int, timeout_s: float | None
    ) -> tuple[Rollout, ...] | Failure:
        if any(sample.ended_by == "time" for sample in samples):
            return too_late(timeout_s)
        prompt_ids = np.array(ids, dtype=np.int64)
        rollouts = []
        for token_ids, logprobs, ended_by in samples:
            text = response_text(self.tokenizer, token_ids, ended_by, request.sampling.stop)
            reason = "length" if ended_by == "length" else "stop"
            rollouts.append(Rollout(request.prompt, prompt_ids, token_ids, logprobs, text, reason, version))
        return sound_group(request, rollouts)

    def weights(self) -> dict[str, torch.Tensor]:
        return named_weights(self.model)

    def load_weights(self, weights: Mapping[str, torch.Tensor], policy_version: int) -> int:
        """Copies the named weights into the model, after the batch that runs, and returns the checksum of all that it now holds.

        Raises KeyError for names that the model does not have, before anything is copied.
        """
        own = self.weights()
        unknown = [name for name in weights if name not in own]
        if unknown:
            raise KeyError(f"weights for tensors that the engine's model does not have: {unknown[:3]} ({len(unknown)} in all)")
        with self.lock:
            for name, tensor in weights.items():
                own[name].copy_(tensor)
            self.policy_version = policy_version
            return checksum(own)


def next_chunk(requests: Sequence[SampleRequest], waiting: Mapping[int, Sequence[int]], max_rows: int) -> list[int]:
    """The indices of the `waiting` requests that the next batch serves, given the prompts' tokens by index.

    Whole groups of the oldest one's view and sampling, the shortest prompts first, of at most `max_rows` samples (or one group
    that is larger). A view's batches are the same whoever shares the engine, and so are their last bits.
    """
    oldest = requests[min(waiting)]
    kind = (oldest.prompt.view, oldest.sampling)
    alike = [i for i in waiting if (requests[i].prompt.view, requests[i].sampling) == kind]
    chunk: list[int] = []
    rows = 0
    for i in sorted(alike, key=lambda i: (len(waiting[i]), i)):
        if chunk and rows + len(requests[i].seeds) > max_rows:
            break
        chunk.append(i)
        rows += len(requests[i].seeds)
    return chunk


def out_of_memory(error: Exception) -> bool:
    """Whether it is the GPU's allocator that failed, the CPU's (a RuntimeError like many others), or Python's own."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(said in str(error) for said in ("can't allocate memory", "not enough memory", "ALLOC_FAILED"))
