"""What the learners' tests do with a learner's model."""

from __future__ import annotations

import torch
from torch import Tensor

from harmonyray.learners.torch import TorchLearner


def shake(learner: TorchLearner) -> None:
    """Moves the policy away from the reference, so that the KL has a gradient."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in learner.model.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.03)


def gradients(learner: TorchLearner) -> dict[str, Tensor]:
    """Of the last update (nothing clears them before the next one, and no clipping acts in these tests)."""
    return {name: p.grad.clone() for name, p in learner.model.named_parameters() if p.grad is not None}
