"""Low-rank adapters with DeepSpeed: the torch learner's numbers and checkpoints, whatever the stage and the number of ranks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from deepspeed_ranks import OPTIONS, Job, furthest, needs_deepspeed, some_batches, torch_outcome

LORA = OPTIONS | {"lora": {"rank": 2, "alpha": 4}}


@needs_deepspeed
@pytest.mark.parametrize(("num_ranks", "stage"), [(1, 0), (2, 1), (1, 2), (2, 3)])
def test_an_adapter_agrees_with_torch_and_goes_on_from_its_checkpoint(
    ranks: Any, workshop: Any, tmp_path: Path, num_ranks: int, stage: int
) -> None:
    batches, options = some_batches(workshop, 6), LORA | {"zero_stage": stage}
    whole = Job(LORA, batches[:3], workshop.model, save=tmp_path / "torch", after=batches[3:], seed=5)
    want = torch_outcome(workshop, whole)
    own = dataclasses.replace(whole, options=options, save=tmp_path / "own")
    got = ranks[num_ranks].run(own)
    assert furthest(got[0].weights, want.weights) < 1e-5
    for outcome in got:
        assert [m["kl"] for m in outcome.metrics] == pytest.approx([m["kl"] for m in want.metrics], abs=1e-5)
        assert outcome.versions == want.versions
    assert want.metrics[-1]["kl"] > 1e-4
    for saved in ("torch", "own"):
        rest = Job(options, batches[3:], workshop.model, load=tmp_path / saved, first=4)
        (resumed, *_) = ranks[num_ranks].run(rest)
        assert resumed.loaded == 3
        assert furthest(resumed.weights, want.weights) < 1e-5
    # What has moments is the adapter: two matrices of rank 2 for each of seven layers, twice.
    elements = 2 * 2 * (2 * (16 + 16) + 2 * (16 + 8) + 3 * (16 + 24))
    if stage == 0:
        assert got[0].held[1] == elements
