"""GRPO in one process with plain PyTorch. A plain class: no ray here.

Rows are sorted by length into micro-batches; gradients accumulate over all of them and one optimizer step follows. The loss
weighs every token by the whole batch, so micro-batching changes nothing but speed and memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from harmonyray.algos.objective import Objective
from harmonyray.config_objective import ObjectiveSettings
from harmonyray.engines.loading import load_model, load_tokenizer
from harmonyray.engines.weights import lay_out, named_weights
from harmonyray.errors import ConfigError
from harmonyray.learners.lora import LoraOptions, make_adapter
from harmonyray.learners.micro_batches import micro_batches
from harmonyray.learners.passes import Passes, summary
from harmonyray.learners.schedules import ScheduleOptions, learning_rate
from harmonyray.learners.skips import SkipOptions, Skips
from harmonyray.learners.state import MASTER, MODEL, Counts, adam_moments, load_state, save_state, set_adam_moments
from harmonyray.protocols import Loss
from harmonyray.types import Batch, FloatArray, UpdateReport


class TorchLearner:
    """Trains one copy of the model. `policy_version` counts the updates."""

    class Options(ScheduleOptions, SkipOptions):
        weight_decay: NonNegativeFloat = 0.0
        max_grad_norm: PositiveFloat = 1.0
        max_tokens_per_micro_batch: PositiveInt = 4096
        num_ranks: PositiveInt = Field(1, description="processes that share an update: one")
        packing: bool = Field(
            False, description="rows end to end instead of padded, where the model can: for FlashAttention (slower on a CPU)"
        )
        lora: LoraOptions | None = Field(
            None, description="{rank, alpha, dropout, target_modules}: train a low-rank adapter beside frozen weights; null: all"
        )

        @model_validator(mode="after")
        def _one_process(self) -> TorchLearner.Options:
            if type(self) is TorchLearner.Options and self.num_ranks > 1:
                raise ValueError(
                    f"num_ranks is {self.num_ranks}, and the torch learner is one process: set learner.type=deepspeed"
                )
            return self

    def __init__(
        self, options: Options, loss: Loss, objective: ObjectiveSettings, model: str, dtype: str, steps: int, seed: int = 0
    ) -> None:
        """`steps` is the length of the run, for the schedule, and `seed` its seed. Raises ModelError if the model cannot be
        loaded, ConfigError for a dtype that it cannot train in."""
        if dtype != "float32":
            raise ConfigError(
                f"'model.dtype' is {dtype}: this learner keeps no float32 master weights, and small updates would be lost in "
                "rounding; train in float32 (evaluation may use any)"
            )
        self.options, self.steps = options, steps
        self.tokenizer = load_tokenizer(model)
        self.model = load_model(model, dtype)
        lay_out(self.model)
        self.objective = Objective(loss, objective)
        self.adapter = make_adapter(self.model, options.lora, seed)
        self.reference = self.adapter.reference() if self.objective.needs_reference else None
        self.passes = Passes(self.model, self.reference, self.objective, options.packing, self.adapter.off)
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=options.lr, weight_decay=options.weight_decay)
        self.policy_version = 0
        self.lr_scale = 1.0
        self.skips = Skips(options.max_skipped_updates)

    def update(self, batch: Batch, step: int) -> UpdateReport:
        """One optimizer step on the batch; `step` (from 1) sets the learning rate.

        Gradients that are not finite are dropped: weights, optimizer and policy version stay, and `skipped_updates` is 1. Raises
        NotFiniteError if that was so too often in a row.
        """
        row_weight, seen = self.objective.row_weights(batch), []
        self.optimizer.zero_grad(set_to_none=True)
        with self.adapter.dropping(step):
            for rows in micro_batches(batch.lengths, self.options.max_tokens_per_micro_batch):
                loss, values = self.passes.loss_of(batch, rows, row_weight)
                loss.backward()
                seen.append(values)
        lr = learning_rate(self.options, step, self.steps) * self.lr_scale
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.options.max_grad_norm)
        skipped = not bool(torch.isfinite(norm))
        if not skipped:
            self.optimizer.step()
            self.policy_version += 1
        self.skips.count(skipped, step)
        about = {"grad_norm": float(norm), "lr": lr, "num_rows": batch.num_rows, "skipped_updates": float(skipped)}
        return UpdateReport(self.policy_version, summary(seen) | about)

    def score(self, batch: Batch, statistics: Sequence[str]) -> dict[str, FloatArray]:
        """Under the present weights, the mean over each row's response tokens of these statistics, float[B] by name."""
        out = {name: np.zeros(batch.num_rows) for name in statistics}
        for rows in micro_batches(batch.lengths, self.options.max_tokens_per_micro_batch):
            for name, values in self.passes.statistics_of(batch, rows, statistics).items():
                out[name][rows] = values.cpu().numpy()
        return out

    def scale_rate(self, scale: float) -> None:
        """From here on the learning rate is `scale` times the schedule's; checkpoints keep it."""
        self.lr_scale = scale

    def weights(self) -> dict[str, Tensor]:
        """By name; with an adapter those of a plain model that computes the same."""
        return self.adapter.merged(named_weights(self.model))

    def save_model(self, directory: Path) -> None:
        """Writes model and tokenizer so that transformers can load them from `directory`."""
        self.model.save_pretrained(directory, state_dict=self.adapter.plain_state(self.weights()))
        self.tokenizer.save_pretrained(directory)

    def save(self, directory: Path) -> None:
        """Writes everything that `load` needs to go on as if nothing had happened."""
        self.save_model(directory / MODEL)
        parts: dict[str, Mapping[str, Tensor]] = {**adam_moments(self.optimizer, self.parameters)}
        if self.adapter.apart:
            parts[MASTER] = self.parameters
        save_state(directory, Counts(self.policy_version, self.lr_scale), parts)

    def load(self, directory: Path) -> None:
        """Takes up weights, optimizer and policy version of a checkpoint; the reference model stays the run's first.

        Raises CheckpointError if a part of it is missing, damaged or of another model.
        """
        self.optimizer.zero_grad(set_to_none=True)  # in the middle of a run there are gradients, which nobody needs any more
        shapes, dtype = {name: p.shape for name, p in self.parameters.items()}, str(self.model.dtype).removeprefix("torch.")
        state = load_state(directory, shapes, dtype, self.adapter.apart)
        for name, p in self.parameters.items():
            p.data.copy_(state.weights[name])
        set_adam_moments(self.optimizer, self.parameters, state)
        self.policy_version, self.lr_scale = state.counts.policy_version, state.counts.lr_scale
        self.skips.forget()
