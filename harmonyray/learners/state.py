"""What a learner leaves in a checkpoint: the same files whatever trains, so that a run may go on with another learner, number of
ranks or ZeRO stage.

`model/` as transformers writes it; `optimizer.safetensors` with AdamW's two moments of every parameter, `exp_avg/<name>` and
`exp_avg_sq/<name>`, and `master/<name>` where the weights are kept in float32 beside the model's, or what is trained is no part
of the model as it is written; `learner.json` with `Counts`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from harmonyray.engines.loading import load_model
from harmonyray.engines.weights import named_weights
from harmonyray.errors import CheckpointError, ModelError, first_line

MODEL, TENSORS, COUNTS = "model", "optimizer.safetensors", "learner.json"
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's, by torch's names
MASTER = "master"


@dataclass(frozen=True, slots=True)
class Counts:
    """`policy_version` is also the number of AdamW's steps; `lr_scale` is what the schedule's rate is multiplied by."""

    policy_version: int
    lr_scale: float


@dataclass(frozen=True, slots=True)
class LearnerState:
    """On the CPU, by parameters' names. `weights`: the float32 ones where they were kept, else the model's. `moments`: by
    AdamW's name for them."""

    counts: Counts
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Mapping[str, Tensor]]


def save_state(directory: Path, counts: Counts, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Writes what goes beside the model: `parts` are the two moments, and the masters where there are any, each by parameters'
    names."""
    tensors = {f"{part}/{name}": t.detach().contiguous().cpu() for part, own in parts.items() for name, t in own.items()}
    save_file(tensors, directory / TENSORS)
    (directory / COUNTS).write_text(json.dumps(asdict(counts)))


def load_state(directory: Path, shapes: Mapping[str, torch.Size], dtype: str, apart: bool = False) -> LearnerState:
    """The state of a learner whose parameters have these names and shapes. `apart`: they are not those of the model as it was
    written, but an adapter's.

    Raises CheckpointError if a part of it is missing, damaged or of another model.
    """
    try:
        held = {} if apart else named_weights(load_model(str(directory / MODEL), dtype, torch.device("cpu")))
        if not apart:
            _compare(held, shapes)
        tensors = load_file(directory / TENSORS)
        counts = Counts(**json.loads((directory / COUNTS).read_text()))
        masters = {name.removeprefix(f"{MASTER}/"): t for name, t in tensors.items() if name.startswith(f"{MASTER}/")}
        weights = {**held, **masters}
        moments = {key: {name: tensors[f"{key}/{name}"] for name in shapes} for key in MOMENTS}
        for found in (weights, *moments.values()):  # masters lie among the weights now
            _compare(found, shapes)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, ModelError) as e:
        raise CheckpointError(
            f"checkpoint '{directory}' cannot be loaded ({type(e).__name__}: {first_line(e)}): delete it to resume from the one "
            "before it"
        ) from e
    return LearnerState(counts, weights, moments)


def _compare(found: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    """Raises ValueError for the first name that is on one side only, or has another shape."""
    shapes = {name: t.shape for name, t in found.items()}
    for name in [*expected, *shapes]:
        if shapes.get(name) != expected.get(name):
            got, want = (str(tuple(side[name])) if name in side else "nothing" for side in (shapes, expected))
            raise ValueError(f"parameter {name!r}: got {got}, the model that is trained has {want}")


def adam_moments(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The moments that torch's AdamW holds of these parameters; zeros before its first step."""
    return {
        key: {name: optimizer.state[p][key] if optimizer.state[p] else torch.zeros_like(p) for name, p in parameters.items()}
        for key in MOMENTS
    }


def set_adam_moments(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], state: LearnerState) -> None:
    """Makes torch's AdamW hold these moments of these parameters, as many steps on as there were updates."""
    for name, p in parameters.items():
        moments = {key: state.moments[key][name].to(p.device, p.dtype) for key in MOMENTS}
        optimizer.state[p] = {"step": torch.tensor(float(state.counts.policy_version)), **moments}
