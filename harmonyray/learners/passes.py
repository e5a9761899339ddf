"""A micro-batch through the model: there and back for the gradients of its loss and what was seen of its tokens, or only there,
for the statistics that a method asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from harmonyray.algos.objective import Objective, Tokens
from harmonyray.algos.token_rows import row_means
from harmonyray.learners.packing import packed_rows
from harmonyray.learners.token_logprobs import NextTokens, next_token_logprobs, padded_rows
from harmonyray.learners.token_statistics import next_token_statistics
from harmonyray.types import Batch, FloatArray, IntArray

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Passes:
    """Runs micro-batches of one model. `reference` is the model that the KL is taken to, None where the objective needs none; it
    runs inside `as_reference`, which makes it out of `model` where it is that itself (see `Adapter.off`).

    What it adds to the gradients does not depend on how an update is cut into micro-batches, nor on `packing`: whether their rows
    are laid end to end instead of being padded."""

    def __init__(
        self,
        model: PreTrainedModel,
        reference: PreTrainedModel | None,
        objective: Objective,
        packing: bool = False,
        as_reference: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        assert (reference is not None) == objective.needs_reference
        self.model, self.reference, self.objective, self.packing = model, reference, objective, packing
        self.as_reference = as_reference

    def loss_of(self, batch: Batch, rows: IntArray, row_weight: FloatArray) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of these rows, to be minimised, and values of their response tokens, each [number of them] and detached.

        `row_weight` float[B] are the objective's `row_weights` of the whole update.
        """
        device, width = self.model.device, self._width(batch, rows)
        mask = torch.from_numpy(batch.response_mask[rows, :width]).to(device)
        weight = torch.from_numpy(row_weight[rows]).float().to(device)[:, None].expand(mask.shape)[mask]
        places = self._laid_out(batch, rows)
        logprobs, entropy = next_token_logprobs(self.model, places, self.objective.needs_entropy_gradient)
        reference: Tensor | None = None
        if self.reference is not None:
            with torch.no_grad(), self.as_reference():
                reference, _ = next_token_logprobs(self.reference, places, False)
        tokens = Tokens(
            logprobs=logprobs,
            entropy=entropy,
            engine_logprobs=torch.from_numpy(batch.old_logprobs[rows, :width]).to(device)[mask],
            advantages=torch.from_numpy(batch.advantages[rows, :width]).to(device)[mask],
            rows=row_of_token(mask),
            reference_logprobs=reference,
        )
        loss, seen = self.objective.per_token(tokens)
        weighted = loss * weight
        return weighted.sum(), seen | {"loss": weighted.detach()}

    @torch.no_grad()
    def statistics_of(self, batch: Batch, rows: IntArray, names: Sequence[str]) -> dict[str, Tensor]:
        """Of each of these rows the means over its response tokens, by the names of `token_statistics`, each [len(rows)]."""
        mask = torch.from_numpy(batch.response_mask[rows, : self._width(batch, rows)]).to(self.model.device)
        values = next_token_statistics(self.model, self._laid_out(batch, rows), names)
        return {name: row_means(value, row_of_token(mask)) for name, value in values.items()}

    def _width(self, batch: Batch, rows: IntArray) -> int:
        return int(batch.lengths[rows].max())

    def _laid_out(self, batch: Batch, rows: IntArray) -> NextTokens:
        """These rows' response tokens, row by row."""
        device, width = self.model.device, self._width(batch, rows)
        ids, mask = (torch.from_numpy(array[rows, :width]).to(device) for array in (batch.token_ids, batch.response_mask))
        lengths, temperatures = (torch.from_numpy(array[rows]).to(device) for array in (batch.lengths, batch.temperatures))
        if not self.packing:
            return padded_rows(ids, mask, temperatures)
        inside = torch.arange(width, device=device) < lengths[:, None]
        return packed_rows(self.model, ids[inside], mask[inside], lengths, temperatures)


def row_of_token(mask: Tensor) -> Tensor:
    """Which row each response token is in, row after row, int[number of tokens], of mask bool[B, T]."""
    return torch.arange(len(mask), device=mask.device)[:, None].expand(mask.shape)[mask]


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
