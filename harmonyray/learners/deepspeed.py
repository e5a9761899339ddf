"""GRPO with DeepSpeed's ZeRO over one or more ranks. A plain class: one process a rank, no ray here.

Every rank is given the whole batch and takes the problems that are its share; what a token counts in the loss is known from the
whole batch, so an update is that of one rank. Everything but reading `policy_version` has to be called on all ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from harmonyray.algos.objective import Objective
from harmonyray.config_objective import ObjectiveSettings
from harmonyray.engines.loading import device, load_model, load_tokenizer
from harmonyray.errors import ConfigError
from harmonyray.learners.lora import make_adapter
from harmonyray.learners.micro_batches import micro_batches, shares
from harmonyray.learners.passes import Passes, summary
from harmonyray.learners.ranks import ALONE, Rank, meet
from harmonyray.learners.schedules import learning_rate
from harmonyray.learners.skips import Skips
from harmonyray.learners.state import MASTER, MODEL, Counts, load_state, save_state
from harmonyray.learners.token_logprobs import plain_head
from harmonyray.learners.torch import TorchLearner
from harmonyray.learners.zero import (
    Call,
    make_engine,
    make_optimizer,
    require_deepspeed,
    set_state,
    settings,
    whole_shapes,
    whole_state,
    whole_weights,
)
from harmonyray.protocols import Loss
from harmonyray.types import Batch, FloatArray, IntArray, UpdateReport

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Values = dict[str, Tensor]

# A rank without rows left has to go through the model with the others: with a row that counts nothing.
_ANY_ROW: IntArray = np.zeros(1, dtype=np.int64)


class DeepSpeedLearner:
    """Trains one model with DeepSpeed's ZeRO; this is one of its ranks. `policy_version` counts the updates."""

    require_installed = staticmethod(require_deepspeed)

    class Options(TorchLearner.Options):
        num_ranks: PositiveInt = Field(1, description="processes that share an update, on one GPU each")
        zero_stage: Literal[0, 1, 2, 3] = Field(
            2, description="what a rank keeps its share of only: 1 the optimizer's state, 2 gradients too, 3 weights too"
        )
        offload: tuple[Literal["optimizer", "parameters"], ...] = Field(
            (), description="what lies in the host's memory: the optimizer's state (from stage 1), the parameters (stage 3)"
        )
        optimizer: Literal["adamw", "cpu_adam"] = Field(
            "adamw",
            description="adamw: torch's; cpu_adam: DeepSpeed's for an offloaded optimizer, the same but faster on a CPU; needs a "
            "C++ compiler at first use",
        )
        gradient_checkpointing: bool = Field(
            False, description="compute a layer's activations again for its gradients instead of keeping them"
        )

        collective_timeout_s: PositiveFloat = Field(
            600.0, description="longest that a rank waits for the others before the whole group is given up"
        )

        @model_validator(mode="after")
        def _possible(self) -> DeepSpeedLearner.Options:
            for what, least in (("optimizer", 1), ("parameters", 3)):
                if what in self.offload and self.zero_stage < least:
                    raise ValueError(f"offload has {what}, which needs a zero_stage of {least} or more, not {self.zero_stage}")
            if self.optimizer == "cpu_adam" and "optimizer" not in self.offload:
                raise ValueError(
                    "optimizer is cpu_adam, which works in the host's memory: set offload to [optimizer], or use adamw"
                )
            return self

    def __init__(
        self,
        options: Options,
        loss: Loss,
        objective: ObjectiveSettings,
        model: str,
        dtype: str,
        steps: int,
        rank: Rank = ALONE,
        seed: int = 0,
    ) -> None:
        """`steps` is the length of the run, for the schedule, and `seed` its seed. Blocks until all ranks are there,
        `collective_timeout_s` at most.

        Raises ConfigError for options that do not go together or without DeepSpeed, ModelError if the model cannot be loaded.
        """
        require_deepspeed()
        _check(options, dtype, rank)
        self.options, self.dtype, self.steps, self.rank = options, dtype, steps, rank.number
        self.tokenizer = load_tokenizer(model)
        # In stage 3 a model may be larger than a GPU: DeepSpeed takes it there share by share.
        self.model = load_model(model, dtype, torch.device("cpu") if options.zero_stage == 3 else device())
        self.objective = Objective(loss, objective)
        self.adapter = make_adapter(self.model, options.lora, seed)
        self.reference = self.adapter.reference() if self.objective.needs_reference else None
        for whole in (self.model, self.reference):
            if whole is not None:
                plain_head(whole)  # found out once for a model, here while all its weights are there and nothing is hooked to it
        if options.gradient_checkpointing:
            _checkpoint_layers(self.model, model)
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.passes = Passes(self.model, self.reference, self.objective, options.packing, self.adapter.off)
        optimizer = make_optimizer(options.optimizer, self.parameters.values(), options.lr, options.weight_decay)
        meet(rank, options.num_ranks, options.collective_timeout_s)
        self.engine = make_engine(
            Call(self.model, None if self.reference is self.model else self.reference),
            optimizer,
            settings(options.zero_stage, options.offload, dtype, options.max_grad_norm),
        )
        self.policy_version = 0
        self.lr_scale = 1.0
        self.skips = Skips(options.max_skipped_updates)

    def update(self, batch: Batch, step: int) -> UpdateReport:
        """One optimizer step of all ranks on the batch; `step` (from 1) sets the learning rate. Every rank's report is that of
        the whole batch.

        Gradients that are not finite are dropped: weights, optimizer and policy version stay, and `skipped_updates` is 1. Raises
        NotFiniteError if that was so too often in a row.
        """
        lr = learning_rate(self.options, step, self.steps) * self.lr_scale
        with self.adapter.dropping(step):
            seen = self._accumulate(batch, self.objective.row_weights(batch))
        norm, skipped = self._step(lr)
        self.policy_version += not skipped
        self.skips.count(skipped, step)
        of_ranks: list[Any] = [None] * self.options.num_ranks
        dist.all_gather_object(of_ranks, seen)
        metrics = summary([values for own in of_ranks for values in own])
        about = {"grad_norm": norm, "lr": lr, "num_rows": batch.num_rows, "skipped_updates": float(skipped)}
        return UpdateReport(self.policy_version, metrics | about)

    def score(self, batch: Batch, statistics: Sequence[str]) -> dict[str, FloatArray]:
        """Under the present weights, the mean over each row's response tokens of these statistics, float[B] by name. Every rank
        computes its rows and gives all."""
        own = {name: np.zeros(batch.num_rows) for name in statistics}
        for rows in self._micro_batches(batch):
            used = rows if len(rows) else _ANY_ROW
            for name, values in self.engine(partial(self.passes.statistics_of, batch, used, statistics)).items():
                own[name][rows] = values.cpu().numpy()[: len(rows)]
        of_ranks: list[Any] = [None] * self.options.num_ranks
        dist.all_gather_object(of_ranks, own)
        return {name: np.sum([rank[name] for rank in of_ranks], axis=0) for name in statistics}

    def scale_rate(self, scale: float) -> None:
        """From here on the learning rate is `scale` times the schedule's; checkpoints keep it."""
        self.lr_scale = scale

    def weights(self) -> dict[str, Tensor]:
        """The weights by name on rank 0, in stage 3 a copy, and with an adapter those of a plain model that computes the same;
        nothing on the others."""
        sharded, everything = self.options.zero_stage == 3, dict(self.model.named_parameters())
        whole = ((name, w.clone() if sharded and self.rank == 0 else w) for name, w in whole_weights(everything))
        return self.adapter.merged({name: w for name, w in whole if self.rank == 0})

    def save_model(self, directory: Path) -> None:
        """Writes model and tokenizer so that transformers can load them from `directory`."""
        weights = self.weights()
        if self.rank == 0:
            self.model.save_pretrained(directory, state_dict=self.adapter.plain_state(weights))
            self.tokenizer.save_pretrained(directory)

    def save(self, directory: Path) -> None:
        """Writes everything that `load` needs to go on as if nothing had happened; on rank 0, once all are there."""
        self.save_model(directory / MODEL)
        state = whole_state(self.engine, self.parameters, keep=self.rank == 0, masters=self.dtype != "float32")
        if self.adapter.apart and MASTER not in state:
            state[MASTER] = {name: w.cpu().clone() for name, w in whole_weights(self.parameters)}
        if self.rank == 0:
            save_state(directory, Counts(self.policy_version, self.lr_scale), state)

    def load(self, directory: Path) -> None:
        """Takes up weights, optimizer and policy version of a checkpoint of any learner; the reference model stays the run's
        first. Every rank reads it.

        Raises CheckpointError if a part of it is missing, damaged or of another model.
        """
        state = load_state(directory, whole_shapes(self.parameters), self.dtype, self.adapter.apart)
        if not self.engine.basic_optimizer.state:
            self._step_nowhere()
        set_state(self.engine, self.parameters, state)
        self.policy_version, self.lr_scale = state.counts.policy_version, state.counts.lr_scale
        self.skips.forget()

    def _accumulate(self, batch: Batch, row_weight: FloatArray) -> list[Values]:
        """The gradients of this rank's rows, reduced over the ranks; and what was seen of the rows' tokens."""
        seen: list[Values] = []
        cuts = self._micro_batches(batch)
        for i, rows in enumerate(cuts):
            counted = len(rows) > 0
            used, weight = (rows, row_weight) if counted else (_ANY_ROW, np.zeros_like(row_weight))
            self.engine.set_gradient_accumulation_boundary(i == len(cuts) - 1)
            loss, values = self.engine(partial(self.passes.loss_of, batch, used, weight))
            self.engine.backward(loss * self.options.num_ranks)  # DeepSpeed takes the mean over the ranks
            if counted:
                seen.append({key: value.cpu() for key, value in values.items()})
        return seen

    def _micro_batches(self, batch: Batch) -> list[IntArray]:
        """This rank's rows, in as many pieces as the rank with the most has: empty ones at the end."""
        limit = self.options.max_tokens_per_micro_batch
        of_ranks = [
            [own[rows] for rows in micro_batches(batch.lengths[own], limit)]
            for own in shares(batch.lengths, self.options.num_ranks, batch.problem)
        ]
        mine, most = of_ranks[self.rank], max(len(cuts) for cuts in of_ranks)
        return mine + [np.zeros(0, dtype=np.int64)] * (most - len(mine))

    def _step(self, lr: float) -> tuple[float, bool]:
        """The optimizer's step with what was accumulated: the gradients' norm before they were clipped, and whether the step was
        left out because they are not finite (DeepSpeed does that itself in all stages but 0)."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        if self.options.zero_stage > 0:
            self.engine.step()
            return float(self.engine.get_global_grad_norm()), not self.engine.was_step_applied()
        norm = torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.options.max_grad_norm)
        if not bool(torch.isfinite(norm)):
            self.engine.zero_grad()
            return float(norm), True
        self.engine.step()
        return float(norm), False

    def _step_nowhere(self) -> None:
        """A step of rate 0 with gradients of 0, which changes nothing but makes AdamW's state be there."""
        one = torch.zeros((1, 1), dtype=torch.int64, device=device())
        self.engine.set_gradient_accumulation_boundary(True)
        self.engine.backward(self.engine(lambda: self.model(input_ids=one, use_cache=False).logits.float().sum() * 0))
        self._step(0.0)


def _check(options: DeepSpeedLearner.Options, dtype: str, rank: Rank) -> None:
    """Raises ConfigError for options that do not go with the rest."""
    if options.zero_stage == 0 and dtype != "float32":
        raise ConfigError(
            f"'learner.zero_stage' is 0 and 'model.dtype' {dtype}: there are no float32 master weights without ZeRO, and small "
            "updates would be lost in rounding; set learner.zero_stage to 1 or more, or train in float32"
        )
    if options.num_ranks > 1 and rank.store is None:
        raise ConfigError(
            f"'learner.num_ranks' is {options.num_ranks}, but this process is alone: set learner.num_ranks to 1, or start every "
            "rank with a place to meet"
        )


def _checkpoint_layers(model: PreTrainedModel, name: str) -> None:
    """Makes the decoder's layers keep their inputs only. (transformers' own switch works in training mode alone, which would
    switch on dropout.) Raises ConfigError for a model without such layers."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(f"'learner.gradient_checkpointing' is true, but model {name!r} has no layers that support it")
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
