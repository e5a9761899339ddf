"""GRPO with DeepSpeed's ZeRO over one or more ranks. A plain class: one process a rank, no ray here.

Every rank is given the whole batch and takes the problems that are its share; what a token counts in the loss is known from the
whole batch, so the update is that of one rank. What holds of all ranks together (`update`, `weights`, `save`, `load`) has to be
called on all of them.
"""

from __future__ import annotations

import copy
import os
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from harmonyray.engines.loading import load_model, load_tokenizer
from harmonyray.engines.weights import named_weights
from harmonyray.errors import CheckpointError, ConfigError
from harmonyray.learners.micro_batches import micro_batches, shares
from harmonyray.learners.passes import Passes, row_weights, summary
from harmonyray.learners.schedules import ScheduleOptions, learning_rate
from harmonyray.learners.state import MOMENTS, LearnerState, load_state, save_state
from harmonyray.protocols import Loss
from harmonyray.types import Batch, FloatArray, IntArray, UpdateReport

MEETING_TIMEOUT_S = 600.0


class DeepSpeedLearner:
    """One rank. `policy_version` counts the updates."""

    class Options(ScheduleOptions):
        num_ranks: PositiveInt = Field(1, description="processes that the update is shared by, each with placement.learner's GPUs")
        zero_stage: Literal[0, 1, 2, 3] = Field(
            2, description="what the ranks keep a share of only: 1 the optimizer's state, 2 gradients too, 3 weights too"
        )
        offload: tuple[Literal["optimizer", "parameters"], ...] = Field(
            (), description="what lies in the host's memory (the optimizer from stage 1, the parameters in stage 3)"
        )
        gradient_checkpointing: bool = False
        weight_decay: NonNegativeFloat = 0.0
        max_grad_norm: PositiveFloat = 1.0
        kl_coef: NonNegativeFloat = Field(0.005, description="weight of the k3 KL to the model that the run started from")
        max_tokens_per_micro_batch: PositiveInt = 4096

    def __init__(
        self,
        options: Options,
        loss: Loss,
        model: str,
        dtype: str,
        steps: int,
        rank: int = 0,
        meeting: str = "tcp://127.0.0.1:0",
    ) -> None:
        """`steps` is the length of the run, for the schedule; `meeting` where the ranks find each other (torch.distributed's
        init_method). Blocks until all have.

        Raises ModelError if the model cannot be loaded, ConfigError for options that do not go together.
        """
        _check(options, dtype)
        self.options, self.steps, self.rank = options, steps, rank
        self.tokenizer = load_tokenizer(model)
        module = load_model(model, dtype)
        self.reference = copy.deepcopy(module).requires_grad_(False) if options.kl_coef > 0 else None
        if options.gradient_checkpointing:
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.engine = _initialize(module, options, dtype, rank, meeting)
        self.model = module
        self.passes = Passes(self.engine, self.reference, loss, options.kl_coef)
        self.policy_version = 0

    def update(self, batch: Batch, step: int) -> UpdateReport:
        """One optimizer step of all ranks on the batch; `step` (from 1) sets the learning rate."""
        lr = learning_rate(self.options, step, self.steps)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        norm, seen = self._step(batch, row_weights(batch))
        self.policy_version += 1
        everybody: list[Any] = [None] * self.options.num_ranks
        dist.all_gather_object(everybody, seen)
        metrics = summary([values for own in everybody for values in own])
        return UpdateReport(self.policy_version, metrics | {"grad_norm": norm, "lr": lr, "num_rows": batch.num_rows})

    def weights(self) -> dict[str, Tensor]:
        """The model's weights by name; whole on rank 0, on the others whatever they have."""
        with self._gathered(list(self.model.parameters())):
            weights = named_weights(self.model)
            return {name: w.clone() for name, w in weights.items()} if self.options.zero_stage == 3 else weights

    def save_model(self, directory: Path) -> None:
        """Writes model and tokenizer so that transformers can load them from `directory`."""
        weights = self.weights()
        if self.rank == 0:
            tied = {name: t for name, t in self.model.state_dict().items() if name not in weights}
            assert all(name in (self.model._tied_weights_keys or ()) for name in tied) or not tied
            self.model.save_pretrained(directory, state_dict=weights)
            self.tokenizer.save_pretrained(directory)

    def save(self, directory: Path) -> None:
        """Writes everything that `load` needs to go on as if nothing had happened."""
        self.save_model(directory / "model")
        state = self._state()
        if self.rank == 0:
            save_state(state, directory)

    def _step(self, batch: Batch, row_weight: FloatArray) -> tuple[float, list[dict[str, Tensor]]]:
        """Gradients of this rank's rows, reduced over the ranks, and the optimizer's step; the gradients' norm, and what was seen
        of the rows' tokens."""
        cuts = self._micro_batches(batch)
        seen: list[dict[str, Tensor]] = []
        for i, rows in enumerate(cuts):
            self.engine.set_gradient_accumulation_boundary(i == len(cuts) - 1)
            counted = len(rows) > 0
            rows = rows if counted else np.zeros(1, dtype=np.int64)
            loss, values = self.passes.loss_of(batch, rows, row_weight if counted else np.zeros_like(row_weight))
            self.engine.backward(loss * self.options.num_ranks)  # DeepSpeed takes the mean over the ranks
            seen += [{key: value.cpu() for key, value in values.items()}] if counted else []
        norm = self._norm()
        self.engine.step()
        return float(self.engine.get_global_grad_norm() if norm is None else norm), seen

    def _micro_batches(self, batch: Batch) -> list[IntArray]:
        """This rank's rows in as many pieces as the rank with the most has, since ranks compute side by side; empty ones at the
        end."""
        limit = self.options.max_tokens_per_micro_batch
        dealt = shares(batch.lengths, self.options.num_ranks, batch.problem)
        cuts = [[own[rows] for rows in micro_batches(batch.lengths[own], limit)] for own in dealt]
        mine, most = cuts[self.rank], max(len(cut) for cut in cuts)
        return mine + [np.zeros(0, dtype=np.int64)] * (most - len(mine))

    def _norm(self) -> Tensor | None:
        """The gradients' norm where DeepSpeed does not say it (without ZeRO), and where they then have to be clipped."""
        if self.options.zero_stage > 0:
            return None
        return torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])

    def _gathered(self, parameters: list[torch.nn.Parameter], changed: bool = False) -> Any:
        """Meanwhile the parameters are whole; with `changed`, rank 0's are everybody's afterwards."""
        if self.options.zero_stage < 3:
            return nullcontext()
        from deepspeed.zero import GatheredParameters

        return GatheredParameters(parameters, modifier_rank=0 if changed else None)
