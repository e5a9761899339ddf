"""What a learner leaves in a checkpoint beside the model: the same files whatever trains, so that a run may go on with another
learner, number of ranks or ZeRO stage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's, by torch's names


@dataclass(frozen=True, slots=True)
class LearnerState:
    """`tensors`: for each trained parameter `exp_avg/<name>` and `exp_avg_sq/<name>` (none before the first update), and
    `master/<name>` where the weights are kept in float32 beside the model's. `num_updates` of the optimizer."""

    policy_version: int
    num_updates: int
    tensors: Mapping[str, Tensor]


def save_state(state: LearnerState, directory: Path) -> None:
    save_file({name: tensor.contiguous().cpu() for name, tensor in state.tensors.items()}, directory / "optimizer.safetensors")
    counts = {"policy_version": state.policy_version, "num_updates": state.num_updates}
    (directory / "learner.json").write_text(json.dumps(counts))


def load_state(directory: Path) -> LearnerState:
    """Raises OSError, ValueError, KeyError or SafetensorError for files that are missing or damaged."""
    counts = json.loads((directory / "learner.json").read_text())
    tensors = load_file(directory / "optimizer.safetensors")
    return LearnerState(int(counts["policy_version"]), int(counts["num_updates"]), tensors)
