"""GRPO in one process with plain PyTorch. A plain class: no ray here.

Rows are sorted by length into micro-batches; gradients accumulate over all of them and one optimizer step follows. The loss
is a token-mean per view, summed over the views, so micro-batching changes nothing but speed and memory.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from harmonyray.algos.losses import kl_k3
from harmonyray.engines.loading import load_model, load_tokenizer
from harmonyray.engines.weights import lay_out, named_weights
from harmonyray.errors import CheckpointError, ConfigError
from harmonyray.protocols import Loss
from harmonyray.registry import PluginOptions
from harmonyray.types import Batch, IntArray, UpdateReport

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TorchLearner:
    """Trains one copy of the model. `policy_version` counts the updates."""

    class Options(PluginOptions):
        lr: PositiveFloat = 3e-6
        schedule: Literal["constant", "cosine"] = "cosine"
        warmup_share: float = Field(0.1, ge=0, lt=1, description="share of the run's steps in which the rate rises linearly")
        weight_decay: NonNegativeFloat = 0.0
        max_grad_norm: PositiveFloat = 1.0
        kl_coef: NonNegativeFloat = Field(0.005, description="weight of the k3 KL to the model that the run started from")
        max_tokens_per_micro_batch: PositiveInt = 4096

    def __init__(self, options: Options, loss: Loss, model: str, dtype: str, steps: int) -> None:
        """`steps` is the length of the run, for the schedule. Raises ModelError if the model cannot be loaded, ConfigError for
        a dtype that it cannot train in."""
        if dtype != "float32":
            raise ConfigError(
                f"'model.dtype' is {dtype}: this learner keeps no float32 master weights, and small updates would be lost in "
                "rounding; train in float32 (evaluation may use any)"
            )
        self.options, self.loss, self.steps = options, loss, steps
        self.tokenizer = load_tokenizer(model)
        self.model = load_model(model, dtype)
        lay_out(self.model)
        self.reference = copy.deepcopy(self.model).requires_grad_(False) if options.kl_coef > 0 else None
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=options.lr, weight_decay=options.weight_decay)
        self.policy_version = 0

    def update(self, batch: Batch, step: int) -> UpdateReport:
        """One optimizer step on the batch; `step` (from 1) sets the learning rate."""
        tokens_per_part = np.bincount(batch.part, weights=batch.response_mask.sum(1))
        row_weight = 1 / tokens_per_part[batch.part]
        parts: list[dict[str, Tensor]] = []
        self.optimizer.zero_grad(set_to_none=True)
        for rows in micro_batches(batch.lengths, self.options.max_tokens_per_micro_batch):
            parts.append(self._backward(batch, rows, row_weight))
        lr = self._learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.max_grad_norm)
        self.optimizer.step()
        self.policy_version += 1
        tokens = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        metrics = _summary(tokens) | {"grad_norm": float(norm), "lr": lr, "num_rows": batch.num_rows}
        return UpdateReport(self.policy_version, metrics)

    def weights(self) -> dict[str, Tensor]:
        return named_weights(self.model)

    def save_model(self, directory: Path) -> None:
        """Writes model and tokenizer so that transformers can load them from `directory`."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)

    def save(self, directory: Path) -> None:
        """Writes everything that `load` needs to go on as if nothing had happened."""
        self.save_model(directory / "model")
        torch.save(self.optimizer.state_dict(), directory / "optimizer.pt")
        (directory / "learner.json").write_text(json.dumps({"policy_version": self.policy_version}))

    def load(self, directory: Path) -> None:
        """Takes up weights, optimizer and policy version of a checkpoint; the reference model stays the run's first.

        Raises CheckpointError if a part of it is missing, damaged or of another model.
        """
        try:
            saved = load_model(str(directory / "model"), str(self.model.dtype).removeprefix("torch."))
            optimizer = torch.load(directory / "optimizer.pt", weights_only=True, map_location=self.model.device)
            version = json.loads((directory / "learner.json").read_text())["policy_version"]
            self.model.load_state_dict(saved.state_dict())
            self.optimizer.load_state_dict(optimizer)
        except Exception as e:  # a damaged file makes torch's reader raise anything
            raise CheckpointError(
                f"checkpoint '{directory}' cannot be loaded ({e}): delete it to resume from the one before it"
            ) from e
        self.policy_version = version

    def _backward(self, batch: Batch, rows: np.ndarray, row_weight: np.ndarray) -> dict[str, Tensor]:
        """Adds the gradient of these rows; returns per-token values of the response tokens, each [number of them]."""
        device, width = self.model.device, int(batch.lengths[rows].max())
        ids = torch.from_numpy(batch.token_ids[rows, :width]).to(device)
        mask = torch.from_numpy(batch.response_mask[rows, :width]).to(device)
        old = torch.from_numpy(batch.old_logprobs[rows, :width]).to(device)[mask]
        advantages = torch.from_numpy(batch.advantages[rows, :width]).to(device)[mask]
        weight = torch.from_numpy(row_weight[rows]).float().to(device)[:, None].expand(mask.shape)[mask]

        temperatures = torch.from_numpy(batch.temperatures[rows]).to(device)
        logprobs, entropy = token_logprobs(self.model, ids, mask, temperatures)
        loss, clipped = self.loss.per_token(logprobs, old, advantages)
        values = {"policy_loss": loss, "clipped": clipped.float(), "entropy": entropy, "gap": (logprobs - old)}
        if self.reference is not None:
            with torch.no_grad():
                reference, _ = token_logprobs(self.reference, ids, mask, temperatures)
            values["kl"] = kl_k3(logprobs, reference)
            loss = loss + self.options.kl_coef * values["kl"]
        values["loss"] = loss * weight
        values["loss"].sum().backward()
        return {key: value.detach() for key, value in values.items()}

    def _learning_rate(self, step: int) -> float:
        warmup = max(1, round(self.options.warmup_share * self.steps)) if self.options.warmup_share else 0
        if step <= warmup:
            return self.options.lr * step / warmup
        if self.options.schedule == "constant":
            return self.options.lr
        progress = (step - 1 - warmup) / max(1, self.steps - warmup)
        return self.options.lr * 0.5 * (1 + math.cos(math.pi * progress))


def micro_batches(lengths: IntArray, max_tokens: int) -> Iterator[IntArray]:
    """Row indices in batches of similar length whose padded size is at most `max_tokens` (or one row that is longer)."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > max_tokens:
            yield order[start:end]
            start = end


def token_logprobs(model: PreTrainedModel, ids: Tensor, mask: Tensor, temperatures: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies (nats) of the response tokens, both [number of them], row by row, at `temperatures` float[B].

    `ids` int[B, T] right-padded, `mask` bool[B, T] true on response tokens. The padding comes last, so a causal model needs
    no attention mask. Only the positions from the first response token on are projected to the vocabulary.
    """
    first = int(mask.any(0).nonzero()[0])
    assert first > 0, "a response needs a prompt before it"
    logits = model(input_ids=ids[:, :-1], use_cache=False, logits_to_keep=ids.shape[1] - first).logits
    wanted = mask[:, first:]
    at = temperatures[:, None].expand(wanted.shape)[wanted][:, None]
    logps = torch.log_softmax(logits[wanted].float() / at, dim=-1)
    chosen = logps.gather(-1, ids[:, first:][wanted].unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        entropy = -(logps.exp() * logps).sum(-1)
    return chosen, entropy


def _summary(tokens: dict[str, Tensor]) -> dict[str, float]:
    """The loss that was minimised, token means, and how far the engine's log-probs were from the learner's own."""
    gap, loss = tokens.pop("gap"), tokens.pop("loss")
    out = {"loss": float(loss.sum())} | {key: float(value.mean()) for key, value in tokens.items()}
    ratio = gap.double().exp()
    for name, q in (("p01", 0.01), ("p50", 0.5), ("p99", 0.99)):
        out[f"engine_ratio_{name}"] = float(np.quantile(ratio.cpu().numpy(), q))
    return out | {"engine_gap_mean": float(gap.abs().mean()), "engine_gap_max": float(gap.abs().max())}
