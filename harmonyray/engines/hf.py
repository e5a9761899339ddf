"""Batched sampling with a KV cache for any transformers causal language model. A plain class: no ray here.

A prompt is prefilled once and its cache repeated for the group's samples; finished rows leave the batch; a group is never
split over batches. Every sample draws from its own seed, so its tokens do not depend on its neighbours.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from pydantic import PositiveInt

from harmonyray.engines.hf_weights import ReceivesWeights
from harmonyray.engines.loading import load_model, load_tokenizer
from harmonyray.engines.prompts import encode_prompt, refuse_stale, response_text
from harmonyray.engines.weights import checksum, named_weights
from harmonyray.registry import PluginOptions
from harmonyray.types import Prompt, Rollout, SampleRequest, Sampling

COMPACT_SHARE = 0.125  # rows are dropped once this share of the batch has finished
STOP_MARGIN = 8  # tokens looked at beside as many as a stop text has characters: some tokens show nothing


class HfEngine(ReceivesWeights):
    """Generates with transformers. `policy_version` is the version of the weights it holds (0: as loaded)."""

    class Options(PluginOptions):
        max_batch_rows: PositiveInt = 512

    def __init__(self, options: Options, model: str, dtype: str = "float32") -> None:
        """Raises ModelError if the model or its tokenizer cannot be loaded."""
        self.options = options
        self.tokenizer = load_tokenizer(model)
        self.model = load_model(model, dtype)
        self.policy_version = 0
        self.lock = threading.Lock()
        stop = {self.tokenizer.eos_token_id}
        configured = self.model.generation_config.eos_token_id
        stop.update(configured if isinstance(configured, list) else [] if configured is None else [configured])
        self.stop_ids = torch.tensor(sorted(stop), device=self.model.device)

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Prompt lengths in tokens."""
        return [len(encode_prompt(self.tokenizer, p)) for p in prompts]

    @torch.inference_mode()
    def sample(self, requests: Sequence[SampleRequest], sampling: Sampling, policy_version: int) -> list[tuple[Rollout, ...]]:
        """One tuple of rollouts per request, in the requests' order.

        Raises StaleWeightsError if the engine's weights are not those of `policy_version`.
        """
        refuse_stale(policy_version, self.policy_version)
        prompt_ids = [encode_prompt(self.tokenizer, r.prompt) for r in requests]
        out: dict[int, tuple[Rollout, ...]] = {}
        for chunk in self._chunks(requests, prompt_ids):
            rows = _Batch(self, [prompt_ids[i] for i in chunk], [requests[i].seeds for i in chunk], sampling).generate()
            for i in chunk:
                ids = np.array(prompt_ids[i], dtype=np.int64)
                out[i] = tuple(self._rollout(requests[i].prompt, sampling.stop, ids, *next(rows)) for _ in requests[i].seeds)
        return [out[i] for i in range(len(requests))]

    def weights(self) -> dict[str, torch.Tensor]:
        return named_weights(self.model)

    def load_weights(self, weights: Mapping[str, torch.Tensor], policy_version: int) -> int:
        """Copies the named weights into the model and returns the checksum of all that it now holds.

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
        self,
        prompt: Prompt,
        stops: Sequence[str],
        prompt_ids: np.ndarray,
        token_ids: np.ndarray,
        logprobs: np.ndarray,
        ended_by: str,
    ) -> Rollout:
        text = response_text(self.tokenizer, token_ids, ended_by, stops)
        reason = "length" if ended_by == "length" else "stop"
        return Rollout(prompt, prompt_ids, token_ids, logprobs, text, reason, self.policy_version)


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


class _Batch:
    """The samples of a few prompts while they generate. A sample is a row of the batch until it has finished.

    S samples in all, prompts in order and a prompt's seeds in order; B rows still in the batch; T `sampling.max_tokens`.
    """

    def __init__(self, engine: HfEngine, prompts: list[list[int]], seeds: list[tuple[int, ...]], sampling: Sampling) -> None:
        self.model, self.stop_ids, self.sampling = engine.model, engine.stop_ids, sampling
        self.tokenizer = engine.tokenizer
        flat_seeds = [seed for group in seeds for seed in group]
        shape = (len(flat_seeds), sampling.max_tokens)
        self.device = engine.model.device
        self.draws = torch.from_numpy(uniforms(flat_seeds, sampling.max_tokens)).to(self.device)  # float64[S, T]
        self.tokens = torch.zeros(shape, dtype=torch.long, device=self.device)  # int[S, T]
        self.logprobs = torch.zeros(shape, device=self.device)  # float32[S, T]
        self.lengths = torch.full(shape[:1], sampling.max_tokens, device=self.device)  # int[S]
        self.rows = torch.arange(len(flat_seeds), device=self.device)  # int[B]: which samples the rows are
        self.live = torch.ones(len(flat_seeds), dtype=torch.bool, device=self.device)  # bool[B]: still generating
        self.cut = torch.zeros(len(flat_seeds), dtype=torch.bool, device=self.device)  # bool[S]: ended by a stop text
        from transformers import DynamicCache

        self.cache = DynamicCache(config=engine.model.config)
        self._prefill(prompts, [len(group) for group in seeds])

    def generate(self) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
        """(token ids, log-probs, what ended it: "token", "text" or "length") for every sample."""
        for t in range(self.sampling.max_tokens):
            token = self._draw(t)
            num_live = int(self.live.sum())
            if num_live == 0 or t + 1 == self.sampling.max_tokens:
                break
            if len(self.live) - num_live > COMPACT_SHARE * len(self.live):
                token = token[self._drop_finished()]
            self._append(token, t)
        last = self.tokens.gather(1, self.lengths[:, None] - 1).squeeze(1)
        stopped, cut = torch.isin(last, self.stop_ids).tolist(), self.cut.tolist()
        tokens, logprobs = self.tokens.cpu().numpy(), self.logprobs.cpu().numpy()
        for i, length in enumerate(self.lengths.tolist()):
            ended_by = "text" if cut[i] else "token" if stopped[i] else "length"
            yield tokens[i, :length].copy(), logprobs[i, :length].copy(), ended_by

    def _prefill(self, prompts: list[list[int]], num_samples: list[int]) -> None:
        """Runs each prompt once, padded on the left, then repeats its cache for its samples."""
        self.width = max(map(len, prompts))
        pad = torch.tensor([self.width - len(p) for p in prompts], device=self.device)
        ids = torch.tensor([[0] * (self.width - len(p)) + p for p in prompts], device=self.device)
        columns = torch.arange(self.width, device=self.device)
        mask = (columns >= pad[:, None]).long() if int(pad.max()) else None
        positions = (columns - pad[:, None]).clamp(min=0)
        logits = self._forward(ids, mask, positions)
        owner = torch.repeat_interleave(torch.tensor(num_samples, device=self.device))  # int[B]: each row's prompt
        self.cache.batch_select_indices(owner)
        self.logits, self.pad = logits[owner], pad[owner]  # [B, vocabulary], int[B]
        self.mask = None if mask is None else mask[owner]  # int[B, tokens so far], None where nothing is padded

    def _draw(self, t: int) -> torch.Tensor:
        """Picks and records token t of every row, int[B]. A row that has finished draws on; its `lengths` cuts that off."""
        token, logprob = pick_tokens(self.logits, self.draws[self.rows, t], self.sampling)
        self.tokens[self.rows, t] = token
        self.logprobs[self.rows, t] = logprob
        ended = self.live & torch.isin(token, self.stop_ids)
        if self.sampling.stop:
            ended |= self._said_stop(t, self.live & ~ended)
        self.lengths[self.rows[ended]] = t + 1
        self.live &= ~ended
        return token

    def _said_stop(self, t: int, asked: torch.Tensor) -> torch.Tensor:
        """Which of the `asked` rows bool[B] have just completed a stop text, bool[B]; looks at the last tokens only."""
        window = max(map(len, self.sampling.stop)) + STOP_MARGIN
        found = torch.zeros_like(asked)
        places = asked.nonzero().squeeze(-1)
        recent = self.tokens[self.rows[places], max(0, t + 1 - window) : t + 1].tolist()
        for place, tokens in zip(places.tolist(), recent, strict=True):
            tail = self.tokenizer.decode(tokens, skip_special_tokens=True)
            found[place] = any(stop in tail for stop in self.sampling.stop)
        self.cut[self.rows[found]] = True
        return found

    def _drop_finished(self) -> torch.Tensor:
        """Leaves the unfinished rows in the batch and returns their indices in it."""
        kept = self.live.nonzero().squeeze(-1)
        self.cache.batch_select_indices(kept)
        self.rows, self.pad, self.live = self.rows[kept], self.pad[kept], self.live[kept]
        self.mask = None if self.mask is None else self.mask[kept]
        return kept

    def _append(self, token: torch.Tensor, t: int) -> None:
        """Runs the model on token t int[B] of every row."""
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones((len(token), 1))], dim=1)
        self.logits = self._forward(token[:, None], self.mask, (self.width + t - self.pad)[:, None])

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor) -> torch.Tensor:
        """The logits after the last of `ids` int[B, tokens], which join the cache: [B, vocabulary]."""
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1]
