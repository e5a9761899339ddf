"""The loss and its gradient against a naive computation, one row at a time, and what must not change them."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from trained import gradients, shake

from harmonyray.learners.micro_batches import micro_batches
from harmonyray.learners.token_logprobs import token_logprobs
from harmonyray.types import Batch


def select_rows(batch: Batch, rows: list[int]) -> Batch:
    width = int(batch.lengths[rows].max())
    return Batch(
        batch.token_ids[rows, :width],
        batch.lengths[rows],
        batch.response_mask[rows, :width],
        batch.old_logprobs[rows, :width],
        batch.advantages[rows, :width],
        batch.part[rows],
        batch.temperatures[rows],
        batch.problem[rows],
    )


def naive_rows(model: Any, batch: Batch) -> list[list[tuple[Tensor, Tensor, float, float]]]:
    """Per row and response token: log-prob, distribution, the engine's log-prob, advantage. One row at a time, unpadded."""
    rows = []
    for b, length in enumerate(batch.lengths):
        logits = model(input_ids=torch.from_numpy(batch.token_ids[b : b + 1, :length])).logits[0] / float(batch.temperatures[b])
        row = []
        for t in range(length):
            if batch.response_mask[b, t]:
                logps = torch.log_softmax(logits[t - 1], -1)
                old, advantage = float(batch.old_logprobs[b, t]), float(batch.advantages[b, t])
                row.append((logps[batch.token_ids[b, t]], logps, old, advantage))
        rows.append(row)
    return rows


def naive_objective(model: Any, reference: Any, batch: Batch, clip: float, kl_coef: float) -> tuple[Tensor, dict[str, float]]:
    """Sum over views of the token mean of clipped loss + kl_coef * k3, written as in the papers; and the metrics."""
    with torch.no_grad():
        reference_rows = naive_rows(reference, batch)
    losses: dict[int, list[Tensor]] = {}
    seen: dict[str, list[float]] = {"policy_loss": [], "clipped": [], "entropy": [], "kl": [], "gap": []}
    for b, row in enumerate(naive_rows(model, batch)):
        for (logp, logps, old, advantage), (ref, _, _, _) in zip(row, reference_rows[b], strict=True):
            ratio = torch.exp(logp - old)
            value = float(ratio.detach())
            if advantage >= 0:
                surrogate = torch.minimum(ratio, torch.tensor(1 + clip)) * advantage
                clipped = value > 1 + clip and advantage > 0
            else:
                surrogate = torch.maximum(ratio, torch.tensor(1 - clip)) * advantage
                clipped = value < 1 - clip
            kl = torch.exp(ref - logp) - (ref - logp) - 1
            losses.setdefault(int(batch.part[b]), []).append(-surrogate + kl_coef * kl)
            seen["policy_loss"].append(-float(surrogate.detach()))
            seen["clipped"].append(float(clipped))
            seen["entropy"].append(-float((logps.exp() * logps).sum().detach()))
            seen["kl"].append(float(kl.detach()))
            seen["gap"].append(float(logp.detach()) - old)
    total = torch.stack([torch.stack(values).mean() for values in losses.values()]).sum()
    means = {key: float(np.mean(values)) for key, values in seen.items() if key != "gap"}
    return total, means | {
        "loss": float(total.detach()),
        "engine_gap_mean": float(np.abs(seen["gap"]).mean()),
        "engine_gap_max": float(np.abs(seen["gap"]).max()),
        "engine_ratio_p50": float(np.quantile(np.exp(seen["gap"]), 0.5)),
        "engine_ratio_p01": float(np.quantile(np.exp(seen["gap"]), 0.01)),
        "engine_ratio_p99": float(np.quantile(np.exp(seen["gap"]), 0.99)),
    }


@pytest.mark.parametrize("num_views", [1, 2, 3])
@pytest.mark.parametrize("kl_coef", [0.0, 0.4])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradient_and_metrics_equal_the_naive_ones(workshop: Any, num_views: int, kl_coef: float, temperature: float) -> None:
    learner = workshop.learner(kl_coef=kl_coef, max_tokens_per_micro_batch=30)
    shake(learner)
    batch = workshop.batch(num_views=num_views, seed=num_views, temperature=temperature)
    assert len(set(batch.part.tolist())) == num_views
    model, reference = copy.deepcopy(learner.model), workshop.learner().model
    objective, metrics = naive_objective(model, reference, batch, clip=0.2, kl_coef=kl_coef)
    assert 0.1 < metrics["clipped"] < 0.9
    model.zero_grad()
    objective.backward()
    report = learner.update(batch, 1)
    got = gradients(learner)
    want = {name: p.grad for name, p in model.named_parameters()}
    assert list(got) == list(want)
    for name in want:
        assert got[name].numpy() == pytest.approx(want[name].numpy(), abs=2e-6), name
    if kl_coef == 0:
        assert "kl" not in report.metrics
        del metrics["kl"]
    for key, value in metrics.items():
        assert report.metrics[key] == pytest.approx(value, abs=1e-5), key
    norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in want.values()))
    assert report.metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert report.metrics["num_rows"] == 9
    assert report.metrics["lr"] == 0.01


def test_each_view_counts_alike_whatever_its_number_of_tokens(workshop: Any) -> None:
    batch = workshop.batch(num_rows=6, num_views=2, seed=5)
    apart = []
    for view in (0, 1):
        learner = workshop.learner(kl_coef=0.0)
        learner.update(select_rows(batch, np.flatnonzero(batch.part == view).tolist()), 1)
        apart.append(gradients(learner))
    learner = workshop.learner(kl_coef=0.0)
    learner.update(batch, 1)
    for name, gradient in gradients(learner).items():
        assert gradient.numpy() == pytest.approx((apart[0][name] + apart[1][name]).numpy(), abs=1e-6), name
    # The batch is not one whose views happen to be equally long.
    assert len(set(np.bincount(batch.part, weights=batch.response_mask.sum(1)).tolist())) == 2


def test_clip_width_is_the_losss(workshop: Any) -> None:
    batch = workshop.batch()
    shares = [workshop.learner(clip=clip).update(batch, 1).metrics["clipped"] for clip in (0.05, 0.2, 5.0)]
    assert shares[0] > shares[1] > shares[2] == 0


def test_one_row(workshop: Any) -> None:
    batch = select_rows(workshop.batch(), [4])
    learner = workshop.learner(kl_coef=0.1)
    model = copy.deepcopy(learner.model)
    objective, _ = naive_objective(model, workshop.learner().model, batch, clip=0.2, kl_coef=0.1)
    objective.backward()
    report = learner.update(batch, 1)
    assert report.metrics["num_rows"] == 1
    for name, p in model.named_parameters():
        assert gradients(learner)[name].numpy() == pytest.approx(p.grad.numpy(), abs=2e-6), name


def test_one_token(workshop: Any) -> None:
    batch = Batch(
        np.array([[5, 6]]),
        np.array([2]),
        np.array([[False, True]]),
        np.array([[0, -2]], dtype=np.float32),
        np.array([[0, 1]], dtype=np.float32),
        np.array([0]),
        np.ones(1, dtype=np.float32),
        np.array([0]),
    )
    report = workshop.learner().update(batch, 1)
    assert report.policy_version == 1
    assert all(math.isfinite(v) for v in report.metrics.values())


# --- what must not matter --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("max_tokens", [1, 14, 40, 75])
def test_neither_micro_batching_nor_packing_changes_anything(workshop: Any, max_tokens: int, packing: bool) -> None:
    batch = workshop.batch(num_rows=12)
    whole = workshop.learner(kl_coef=0.2, max_tokens_per_micro_batch=10_000)
    parts = workshop.learner(kl_coef=0.2, max_tokens_per_micro_batch=max_tokens, packing=packing)
    assert len(list(micro_batches(batch.lengths, 10_000))) == 1 < len(list(micro_batches(batch.lengths, max_tokens)))
    shake(whole)
    shake(parts)
    first, second = whole.update(batch, 1).metrics, parts.update(batch, 1).metrics
    for name, gradient in gradients(whole).items():
        assert gradients(parts)[name].numpy() == pytest.approx(gradient.numpy(), abs=1e-6), name
    assert first == pytest.approx(second, abs=1e-5)


def test_micro_batching_leads_to_the_same_weights(workshop: Any) -> None:
    """Over several steps of a real optimizer; AdamW's division amplifies rounding where a gradient is nearly zero."""
    learners = [workshop.learner(lr=1e-3, max_tokens_per_micro_batch=n) for n in (1, 10_000)]
    for step in (1, 2, 3):
        for learner in learners:
            learner.update(workshop.batch(seed=step), step)
    one, other = (learner.weights() for learner in learners)
    off = torch.cat([(one[name] - other[name]).abs().flatten() for name in one])
    assert float(off.quantile(0.99)) < 1e-6
    assert float(off.max()) < 1e-4


def test_row_order_changes_nothing(workshop: Any) -> None:
    batch = workshop.batch()
    learners = [workshop.learner(max_tokens_per_micro_batch=30) for _ in range(2)]
    learners[0].update(batch, 1)
    learners[1].update(select_rows(batch, [8, 3, 1, 0, 2, 7, 6, 5, 4]), 1)
    for name, gradient in gradients(learners[0]).items():
        assert gradients(learners[1])[name].numpy() == pytest.approx(gradient.numpy(), abs=1e-6), name


def test_what_lies_in_the_padding_changes_nothing(workshop: Any) -> None:
    batch = workshop.batch()
    noisy = copy.deepcopy(batch)
    outside = np.arange(batch.token_ids.shape[1]) >= batch.lengths[:, None]
    assert outside.any()
    noisy.token_ids[outside] = 9
    noisy.old_logprobs[~batch.response_mask] = np.nan
    noisy.advantages[~batch.response_mask] = np.nan
    learners = [workshop.learner() for _ in range(2)]
    assert learners[0].update(batch, 1).metrics == learners[1].update(noisy, 1).metrics
    for name, t in learners[0].weights().items():
        assert torch.equal(t, learners[1].weights()[name])


# --- log-probs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_token_logprobs_equal_a_full_forward(workshop: Any, temperature: float) -> None:
    batch = workshop.batch(num_rows=7, seed=3, temperature=temperature)
    model = workshop.learner().model
    ids, mask = torch.from_numpy(batch.token_ids), torch.from_numpy(batch.response_mask)
    got, entropy = token_logprobs(model, ids, mask, torch.full((7,), temperature))
    with torch.no_grad():
        rows = naive_rows(model, batch)
    want = [float(logp) for row in rows for logp, *_ in row]
    want_entropy = [-float((logps.exp() * logps).sum()) for row in rows for _, logps, *_ in row]
    assert got.tolist() == pytest.approx(want, abs=1e-5)
    assert entropy.tolist() == pytest.approx(want_entropy, abs=1e-5)
    assert got.requires_grad
    assert not entropy.requires_grad


def test_a_response_without_a_prompt_is_refused(workshop: Any) -> None:
    with pytest.raises(AssertionError, match="needs a prompt"):
        token_logprobs(workshop.learner().model, torch.tensor([[3, 4]]), torch.tensor([[True, True]]), 1.0)


# --- micro-batches ---------------------------------------------------------------------------------------------------


def test_micro_batches_by_hand() -> None:
    got = [rows.tolist() for rows in micro_batches(np.array([5, 2, 9, 2, 5, 30]), 20)]
    # Lengths 2 2 5 5 fill 4 x 5; 9 and 30 do not share 20.
    assert got == [[1, 3, 0, 4], [2], [5]]
    assert [rows.tolist() for rows in micro_batches(np.array([5, 2, 9, 2, 5, 30]), 19)] == [[1, 3, 0], [4, 2], [5]]
    assert list(micro_batches(np.array([], dtype=np.int64), 20)) == []


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 300))
def test_micro_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    array = np.array(lengths)
    parts = list(micro_batches(array, budget))
    assert sorted(int(i) for rows in parts for i in rows) == list(range(len(lengths)))
    for rows in parts:
        assert len(rows) * array[rows].max() <= budget or len(rows) == 1
    # Neighbours would not have fitted into one.
    for a, b in pairwise(parts):
        assert (len(a) + 1) * array[b[0]] > budget
