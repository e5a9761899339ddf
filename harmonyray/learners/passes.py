"""A micro-batch through the model and back: the gradients of its loss, and what was seen of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from harmonyray.algos.losses import kl_k3
from harmonyray.learners.token_logprobs import token_logprobs
from harmonyray.protocols import Loss
from harmonyray.types import Batch, FloatArray, IntArray

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def row_weights(batch: Batch) -> FloatArray:
    """What a token of each row counts in the loss, float[B]: a token-mean for each part, and the parts summed."""
    tokens_per_part = np.bincount(batch.part, weights=batch.response_mask.sum(1))
    out: FloatArray = 1 / tokens_per_part[batch.part]
    return out


class Passes:
    """Runs micro-batches of one model. `reference` None: no KL. What it adds to the gradients does not depend on how an update is
    cut into micro-batches."""

    def __init__(self, model: PreTrainedModel, reference: PreTrainedModel | None, loss: Loss, kl_coef: float) -> None:
        self.model, self.reference, self.loss, self.kl_coef = model, reference, loss, kl_coef

    def loss_of(self, batch: Batch, rows: IntArray, row_weight: FloatArray) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of these rows, to be minimised, and values of their response tokens, each [number of them] and detached."""
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
            loss = loss + self.kl_coef * values["kl"]
        values["loss"] = loss * weight
        return values["loss"].sum(), {key: value.detach() for key, value in values.items()}


def summary(parts: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """Of an update's micro-batches: the loss that was minimised, token means, and how far the engine's log-probs were from the
    learner's own."""
    tokens = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    gap, loss = tokens.pop("gap"), tokens.pop("loss")
    out = {"loss": float(loss.sum())} | {key: float(value.mean()) for key, value in tokens.items()}
    ratio = gap.double().exp()
    for name, q in (("p01", 0.01), ("p50", 0.5), ("p99", 0.99)):
        out[f"engine_ratio_{name}"] = float(np.quantile(ratio.cpu().numpy(), q))
    return out | {"engine_gap_mean": float(gap.abs().mean()), "engine_gap_max": float(gap.abs().max())}
