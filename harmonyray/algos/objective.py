"""What an update minimises, put together in one place: policy loss, importance weights, KL, entropy, and what each token counts.

A token's loss is

    importance weight × policy loss + kl_coef × KL − entropy.coef × entropy + band.coef × distance to the band

on the tokens that are trained, and 0 on others; the update's is the sum over tokens of `row_weights` × that. With kl_in "reward"
the KL is no term of it: the policy loss gets advantages from which kl_coef × the KL of a token and all after it in its response,
as numbers without gradient, has been taken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from harmonyray.algos.aggregation import AGGREGATIONS
from harmonyray.algos.entropy import band_penalty, num_top, top_entropy
from harmonyray.algos.importance import importance_weights
from harmonyray.algos.kl import KL_ESTIMATES
from harmonyray.algos.token_rows import sums_to_end
from harmonyray.config_objective import ObjectiveSettings
from harmonyray.protocols import Loss
from harmonyray.types import Batch, FloatArray


@dataclass(frozen=True, slots=True)
class Tokens:
    """The response tokens of a micro-batch, row after row; every tensor is [number of them], log-probs and entropies in nats.

    `rows` int: which row of the micro-batch a token is in. `logprobs` are the learner's, with gradient, `engine_logprobs` of the
    policy that drew them, `reference_logprobs` of the model that the run started from (None: there is none).
    """

    logprobs: Tensor
    entropy: Tensor
    engine_logprobs: Tensor
    advantages: Tensor
    rows: Tensor
    reference_logprobs: Tensor | None = None


class Objective:
    """The loss of an update, for every learner alike."""

    def __init__(self, loss: Loss, settings: ObjectiveSettings) -> None:
        self.loss, self.settings, self.options = loss, settings, settings.options
        self.corrects_itself = bool(getattr(loss, "corrects_lag", False))  # and then it needs the engine's log-probs

    @property
    def needs_reference(self) -> bool:
        """Whether the log-probs of the model that the run started from are wanted."""
        return self.options.kl_coef > 0

    @property
    def needs_entropy_gradient(self) -> bool:
        """Whether something acts on the entropy itself."""
        entropy = self.options.entropy
        return entropy.coef > 0 or entropy.band is not None

    def row_weights(self, batch: Batch) -> FloatArray:
        """What a token of each row counts in the loss, float[B]. `batch` is the whole one, whoever computes which of its rows."""
        options, by_view = self.options, np.array(self.settings.view_weights)
        lengths = torch.from_numpy(batch.response_mask.sum(1))
        num_tokens = num_top(lengths, options.entropy.top_share).numpy()
        counts = AGGREGATIONS[options.aggregation](num_tokens, batch.part, self.settings.max_response_tokens)
        return counts * by_view[batch.part % len(by_view)]  # part V + v are the drafts of view v

    def per_token(self, tokens: Tokens) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each token before `row_weights`, and values to be seen, detached; all [number of tokens]."""
        entropy = self.options.entropy
        kl = self._kl(tokens)
        if kl is not None and self.options.kl_in == "reward":
            penalty = self.options.kl_coef * sums_to_end(kl.detach(), tokens.rows)
            tokens = replace(tokens, advantages=tokens.advantages - penalty)
        loss, seen = self._policy_loss(tokens)
        if kl is not None:
            seen["kl"] = kl
            loss = loss + self.options.kl_coef * kl if self.options.kl_in == "loss" else loss
        if entropy.coef > 0:
            loss = loss - entropy.coef * tokens.entropy
        if entropy.band is not None:
            seen["entropy_outside_band"] = band_penalty(tokens.entropy, entropy.band)
            loss = loss + entropy.band.coef * seen["entropy_outside_band"]
        if entropy.top_share < 1:
            loss = torch.where(top_entropy(tokens.entropy, tokens.rows, entropy.top_share), loss, 0.0)
        return loss, {key: value.detach() for key, value in seen.items()}

    def _kl(self, tokens: Tokens) -> Tensor | None:
        """The estimate for each token, [number of tokens]; None where no KL is wanted."""
        if not self.needs_reference:
            return None
        assert tokens.reference_logprobs is not None
        return KL_ESTIMATES[self.options.kl](tokens.logprobs, tokens.reference_logprobs)

    def _policy_loss(self, tokens: Tokens) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy loss with its importance weights. With them the loss compares with the learner's own log-probs: there is one
        optimizer step a batch, so those before it are the present ones."""
        importance, engine = self.options.importance, tokens.engine_logprobs
        seen = {"entropy": tokens.entropy, "gap": tokens.logprobs - engine}
        weighs = importance.type != "none" and not self.corrects_itself
        old = tokens.logprobs.detach() if weighs else engine
        loss, clipped = self.loss.per_token(tokens.logprobs, old, tokens.advantages, tokens.rows)
        if weighs:
            weight, cut = importance_weights(tokens.logprobs, engine, tokens.rows, importance)
            loss = loss * weight
            seen["importance_cut"] = cut.float()
        return loss, seen | {"policy_loss": loss, "clipped": clipped.float()}
