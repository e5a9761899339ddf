"""A micro-batch through the model and back: the gradients of its loss, and what was seen of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from harmonyray.algos.objective import Objective, Tokens
from harmonyray.learners.token_logprobs import token_logprobs
from harmonyray.types import Batch, FloatArray, IntArray

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Passes:
    """Runs micro-batches of one model. `reference` is the model that the KL is taken to, None where the objective needs none.
    What it adds to the gradients does not depend on how an update is cut into micro-batches."""

    def __init__(self, model: PreTrainedModel, reference: PreTrainedModel | None, objective: Objective) -> None:
        assert (reference is not None) == objective.needs_reference
        self.model, self.reference, self.objective = model, reference, objective

    def loss_of(self, batch: Batch, rows: IntArray, row_weight: FloatArray) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of these rows, to be minimised, and values of their response tokens, each [number of them] and detached.

        `row_weight` float[B] are the objective's `row_weights` of the whole update.
        """
        device, width = self.model.device, int(batch.lengths[rows].max())
        ids = torch.from_numpy(batch.token_ids[rows, :width]).to(device)
        mask = torch.from_numpy(batch.response_mask[rows, :width]).to(device)
        weight = torch.from_numpy(row_weight[rows]).float().to(device)[:, None].expand(mask.shape)[mask]

        temperatures = torch.from_numpy(batch.temperatures[rows]).to(device)
        logprobs, entropy = token_logprobs(
            self.model, ids, mask, temperatures, entropy_grad=self.objective.needs_entropy_gradient
        )
        reference: Tensor | None = None
        if self.reference is not None:
            with torch.no_grad():
                reference, _ = token_logprobs(self.reference, ids, mask, temperatures)
        tokens = Tokens(
            logprobs=logprobs,
            entropy=entropy,
            engine_logprobs=torch.from_numpy(batch.old_logprobs[rows, :width]).to(device)[mask],
            advantages=torch.from_numpy(batch.advantages[rows, :width]).to(device)[mask],
            rows=torch.arange(len(rows), device=device)[:, None].expand(mask.shape)[mask],
            reference_logprobs=reference,
        )
        loss, seen = self.objective.per_token(tokens)
        weighted = loss * weight
        return weighted.sum(), seen | {"loss": weighted.detach()}


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
