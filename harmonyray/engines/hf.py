"""Batched sampling with a KV cache for any transformers causal language model. A plain class: no ray here.

A prompt is prefilled once and its cache repeated for the group's samples; finished rows leave the batch; a group is never
split over batches. Every sample draws from its own seed, so its tokens do not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt
from transformers import DynamicCache

from harmonyray.engines.loading import load_model, load_tokenizer
from harmonyray.engines.weights import checksum, named_weights
from harmonyray.errors import StaleWeightsError
from harmonyray.registry import PluginOptions
from harmonyray.types import Prompt, Rollout, SampleRequest, Sampling

COMPACT_SHARE = 0.125  # rows are dropped once this share of the batch has finished


class HfEngine:
    """Generates with transformers. `policy_version` is the version of the weights it holds (0: as loaded)."""

    class Options(PluginOptions):
        max_batch_rows: PositiveInt = 512

    def __init__(self, options: Options, model: str, dtype: str = "float32") -> None:
        """Raises ModelError if the model or its tokenizer cannot be loaded."""
        self.options = options
        self.tokenizer = load_tokenizer(model)
        self.model = load_model(model, dtype)
        self.policy_version = 0
        stop = {self.tokenizer.eos_token_id}
        configured = self.model.generation_config.eos_token_id
        stop.update(configured if isinstance(configured, list) else [] if configured is None else [configured])
        self.stop_ids = torch.tensor(sorted(stop), device=self.model.device)

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Prompt lengths in tokens."""
        return [len(self._encode(p)) for p in prompts]

    def sample(self, requests: Sequence[SampleRequest], sampling: Sampling, policy_version: int) -> list[tuple[Rollout, ...]]:
        """One tuple of rollouts per request, in the requests' order.

        Raises StaleWeightsError if the engine's weights are not those of `policy_version`.
        """
        if policy_version != self.policy_version:
            raise StaleWeightsError(
                f"asked to generate with policy version {policy_version}, but this engine holds {self.policy_version}: "
                "broadcast the weights first"
            )
        prompt_ids = [self._encode(r.prompt) for r in requests]
        out: dict[int, tuple[Rollout, ...]] = {}
        for chunk in self._chunks(requests, prompt_ids):
            rows = _generate(self, [prompt_ids[i] for i in chunk], [requests[i].seeds for i in chunk], sampling)
            for i in chunk:
                ids = np.array(prompt_ids[i], dtype=np.int64)
                out[i] = tuple(self._rollout(requests[i].prompt, ids, *next(rows)) for _ in requests[i].seeds)
        return [out[i] for i in range(len(requests))]

    def weights(self) -> dict[str, torch.Tensor]:
        return named_weights(self.model)

    def load_weights(self, weights: Mapping[str, torch.Tensor], policy_version: int) -> int:
        """Copies the named weights into the model and returns the checksum of all that it now holds.

        Raises KeyError for a name that the model does not have.
        """
        own = self.weights()
        for name, tensor in weights.items():
            own[name].copy_(tensor)
        self.policy_version = policy_version
        return checksum(own)

    def _encode(self, prompt: Prompt) -> list[int]:
        if prompt.text is not None:
            return self.tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
        chat = [dict(m) for m in prompt.messages]
        encoded: Any = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
        return list(encoded["input_ids"])

    def _chunks(self, requests: Sequence[SampleRequest], prompt_ids: Sequence[list[int]]) -> Iterator[list[int]]:
        """Request indices in batches of at most `max_batch_rows` samples, whole groups, similar prompt lengths together."""
        chunk: list[int] = []
        rows = 0
        for i in sorted(range(len(requests)), key=lambda i: (len(prompt_ids[i]), i)):
            if chunk and rows + len(requests[i].seeds) > self.options.max_batch_rows:
                yield chunk
                chunk, rows = [], 0
            chunk.append(i)
            rows += len(requests[i].seeds)
        if chunk:
            yield chunk

    def _rollout(
        self, prompt: Prompt, prompt_ids: np.ndarray, token_ids: np.ndarray, logprobs: np.ndarray, stopped: bool
    ) -> Rollout:
        text = str(self.tokenizer.decode(token_ids, skip_special_tokens=True))
        return Rollout(prompt, prompt_ids, token_ids, logprobs, text, "stop" if stopped else "length", self.policy_version)


def uniforms(seeds: Sequence[int], length: int) -> np.ndarray:
    """One row of uniform numbers in [0, 1) for each seed, float64[B, length]: a sample's draws depend on its seed alone."""
    return np.stack([np.random.Generator(np.random.Philox(seed)).random(length) for seed in seeds])


def pick_tokens(logits: torch.Tensor, u: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens int[B] and their log-probs float32[B] from logits [B, vocabulary] and uniforms u float64[B].

    Inverse-CDF sampling at the temperature; the log-prob is that of the whole distribution at the temperature, also when
    top-p cuts what may be drawn. Temperature 0 takes the largest logit, log-prob at temperature 1.
    """
    logps = torch.log_softmax(logits.float() / (sampling.temperature or 1.0), dim=-1)
    if sampling.temperature == 0:
        tokens = logps.argmax(-1)
    else:
        probs = logps.exp()
        if sampling.top_p < 1:
            ordered, order = probs.sort(dim=-1, descending=True)
            cut = ordered.cumsum(-1) - ordered >= sampling.top_p
            probs = torch.zeros_like(probs).scatter(-1, order, ordered.masked_fill(cut, 0.0))
        cdf = probs.double().cumsum(-1)
        tokens = torch.searchsorted(cdf, (u * cdf[:, -1]).unsqueeze(-1), right=True).squeeze(-1)
        tokens = tokens.clamp(max=logits.shape[-1] - 1)
    return tokens, logps.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


@torch.inference_mode()
def _generate(
    engine: HfEngine, prompts: list[list[int]], seeds: list[tuple[int, ...]], sampling: Sampling
) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """(token ids, log-probs, stopped) for every sample, prompts in order and a prompt's seeds in order."""
    model, device = engine.model, engine.model.device
    counts = torch.tensor([len(s) for s in seeds], device=device)
    flat_seeds = [seed for group in seeds for seed in group]
    num_rows, width = len(flat_seeds), max(map(len, prompts))
    draws = torch.from_numpy(uniforms(flat_seeds, sampling.max_tokens)).to(device)
    tokens = torch.zeros((num_rows, sampling.max_tokens), dtype=torch.long, device=device)
    logps = torch.zeros((num_rows, sampling.max_tokens), device=device)
    lengths = torch.full((num_rows,), sampling.max_tokens, device=device)
    stopped = torch.zeros(num_rows, dtype=torch.bool, device=device)

    # Prefill each prompt once, padded on the left, then repeat its cache for its samples.
    pad = torch.tensor([width - len(p) for p in prompts], device=device)
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=device)
    mask = (torch.arange(width, device=device) >= pad[:, None]).long() if int(pad.max()) else None
    positions = (torch.arange(width, device=device) - pad[:, None]).clamp(min=0)
    cache = DynamicCache(config=model.config)
    logits = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
    ).logits[:, -1]
    owner = torch.repeat_interleave(torch.arange(len(prompts), device=device), counts)
    cache.batch_select_indices(owner)
    logits, pad = logits[owner], pad[owner]
    mask = None if mask is None else mask[owner]

    rows = torch.arange(num_rows, device=device)  # which samples the batch's rows are
    live = torch.ones(num_rows, dtype=torch.bool, device=device)  # rows still generating
    for t in range(sampling.max_tokens):
        token, logp = pick_tokens(logits, draws[rows, t], sampling)
        tokens[rows[live], t] = token[live]
        logps[rows[live], t] = logp[live].float()
        ended = live & torch.isin(token, engine.stop_ids)
        lengths[rows[ended]] = t + 1
        stopped[rows[ended]] = True
        live &= ~ended
        num_live = int(live.sum())
        if num_live == 0 or t + 1 == sampling.max_tokens:
            break
        if len(live) - num_live > COMPACT_SHARE * len(live):
            kept = live.nonzero().squeeze(-1)
            cache.batch_select_indices(kept)
            rows, token, pad, live = rows[kept], token[kept], pad[kept], live[kept]
            mask = None if mask is None else mask[kept]
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones((len(mask), 1))], dim=1)
        positions = (width + t - pad)[:, None]
        logits = model(
            input_ids=token[:, None], attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).logits[:, -1]

    for i in range(num_rows):
        n = int(lengths[i])
        yield tokens[i, :n].cpu().numpy(), logps[i, :n].cpu().numpy(), bool(stopped[i])
