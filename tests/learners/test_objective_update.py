"""The parts of the objective through a real model: what an update's gradient is, and that neither micro-batches nor who computes
which rows changes it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from trained import gradients, shake

from harmonyray.algos.losses.cispo import Cispo
from harmonyray.algos.losses.gspo import Gspo
from harmonyray.algos.losses.truncated_is import TruncatedIs
from harmonyray.algos.objective import Objective
from harmonyray.config_objective import ObjectiveOptions, ObjectiveSettings
from harmonyray.types import Batch

NO_WEIGHTS = {"importance": {"type": "none"}}
EVERYTHING = {
    "aggregation": "seq-mean-token-mean",
    "kl": "k2",
    "kl_coef": 0.3,
    "importance": {"type": "mask", "level": "sequence", "low": 0.4, "high": 3.0},
    "entropy": {"coef": 0.1, "top_share": 0.4, "band": {"low": 2.0, "high": 2.8, "coef": 0.7}},
}
OBJECTIVES = [
    {"aggregation": "seq-mean-token-sum-norm"},
    {"aggregation": "seq-mean-token-sum", "importance": {"type": "truncate", "level": "sequence", "high": 1.1}},
    {"importance": {"type": "mask", "low": 0.8, "high": 1.2}},
    {"kl": "k1", "kl_coef": 0.2, "kl_in": "reward"},
    NO_WEIGHTS | {"entropy": {"top_share": 0.3}},
    EVERYTHING,
]


def assert_close(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float = 2e-6) -> None:
    assert max(float(g.abs().max()) for g in want.values()) > 1e-3, "nothing to compare"
    assert list(got) == list(want)
    for name, g in want.items():
        assert got[name].numpy() == pytest.approx(g.numpy(), abs=tolerance), name


def naive_rows(model: Any, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """Of every row, alone and unpadded: log-probs and entropies of its response tokens."""
    out = []
    for b, length in enumerate(batch.lengths):
        ids = torch.from_numpy(batch.token_ids[b, :length])
        logps = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1] / float(batch.temperatures[b]), -1)
        mask = torch.from_numpy(batch.response_mask[b, 1:length])
        chosen = logps.gather(-1, ids[1:, None])[:, 0]
        out.append((chosen[mask], -(logps.exp() * logps).sum(-1)[mask]))
    return out


def values(array: np.ndarray, batch: Batch, b: int) -> Tensor:
    return torch.from_numpy(array[b][batch.response_mask[b]])


def naive_everything(model: Any, reference: Any, batch: Batch) -> Tensor:
    """What EVERYTHING asks for, a row at a time."""
    with torch.no_grad():
        anchor = naive_rows(reference, batch)
    total = torch.zeros(())
    for b, (logp, entropy) in enumerate(naive_rows(model, batch)):
        engine, advantage = values(batch.old_logprobs, batch, b), values(batch.advantages, batch, b)
        weight = float((logp.detach() - engine).sum().exp())
        policy = -advantage * logp * (weight if 0.4 <= weight <= 3.0 else 0.0)
        kl = (logp - anchor[b][0]).square() / 2
        band = torch.relu(2.0 - entropy) + torch.relu(entropy - 2.8)
        losses = policy + 0.3 * kl - 0.1 * entropy + 0.7 * band
        chosen = entropy.detach().topk(int(np.ceil(0.4 * len(logp) - 1e-9))).indices
        total = total + losses[chosen].mean() / int((batch.part == batch.part[b]).sum())
    return total


def test_all_parts_together_are_the_naive_ones(workshop: Any) -> None:
    learner = workshop.learner(objective=EVERYTHING, max_tokens_per_micro_batch=30)
    shake(learner)
    batch = workshop.batch(num_rows=12, seed=4)
    model, reference = copy.deepcopy(learner.model), workshop.learner().model
    model.zero_grad()
    naive_everything(model, reference, batch).backward()
    report = learner.update(batch, 1)
    assert_close(gradients(learner), {name: p.grad for name, p in model.named_parameters()})
    assert 0.1 < report.metrics["importance_cut"] < 0.9
    assert report.metrics["entropy_outside_band"] > 0.01
    assert report.metrics["clipped"] == 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_micro_batches_change_nothing(workshop: Any, objective: dict[str, Any]) -> None:
    batch = workshop.batch(num_rows=12, seed=1)
    learners = [workshop.learner(objective=objective, max_tokens_per_micro_batch=size) for size in (10_000, 20)]
    for learner in learners:
        shake(learner)
    reports = [learner.update(batch, 1).metrics for learner in learners]
    assert_close(gradients(learners[1]), gradients(learners[0]))
    assert reports[1] == pytest.approx(reports[0], abs=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_ranks_change_nothing(workshop: Any, objective: dict[str, Any]) -> None:
    """Each of two learners computes some of the rows, with the weights of the whole batch; their gradients add up."""
    batch = workshop.batch(num_rows=12, seed=2)
    whole, one, other = (workshop.learner(objective=objective) for _ in range(3))
    for learner in (whole, one, other):
        shake(learner)
    whole.update(batch, 1)
    for rank, rows in ((one, np.array([0, 3, 4, 9])), (other, np.array([1, 2, 5, 6, 7, 8, 10, 11]))):
        rank.passes.loss_of(batch, rows, rank.objective.row_weights(batch))[0].backward()
    parts = gradients(other)
    assert_close({name: g + parts[name] for name, g in gradients(one).items()}, gradients(whole))


@pytest.mark.parametrize("loss", [None, Gspo(Gspo.Options()), Cispo(Cispo.Options())])
def test_with_importance_weights_every_loss_is_truncated_importance_sampling(workshop: Any, loss: Any) -> None:
    """Compared with its own log-probs a loss has ratio 1, no clip acts, and the weights are min(ratio, cap)."""
    batch = workshop.batch(seed=3)
    wanted = workshop.learner(kl_coef=0.0, loss=TruncatedIs(TruncatedIs.Options(cap=1.3)), objective=NO_WEIGHTS)
    got = workshop.learner(kl_coef=0.0, loss=loss, objective={"importance": {"type": "truncate", "high": 1.3}})
    want, have = wanted.update(batch, 1).metrics, got.update(batch, 1).metrics
    assert_close(gradients(got), gradients(wanted))
    assert 0 < have["importance_cut"] == want["clipped"] < 0.5
    assert have["clipped"] == 0


def test_a_loss_that_corrects_by_itself_is_not_corrected_again(workshop: Any) -> None:
    learners = [
        workshop.learner(loss=TruncatedIs(TruncatedIs.Options(cap=5.0)), objective=objective)
        for objective in (NO_WEIGHTS, {"importance": {"type": "truncate", "high": 0.5}})
    ]
    reports = [learner.update(workshop.batch(), 1).metrics for learner in learners]
    assert_close(gradients(learners[1]), gradients(learners[0]), 0.0)
    assert reports[0] == reports[1]
    assert "importance_cut" not in reports[1]


def test_view_weights_weigh_a_views_part(workshop: Any) -> None:
    """The gradient of parts 0, 1 and 2 with weights 1, 1/2 and 0; part 4 is the drafts of view 1."""
    batch = workshop.batch(num_rows=12, num_views=3, seed=6)
    batch.part[batch.part == 2] = 4
    objective = Objective(None, ObjectiveSettings(ObjectiveOptions(), (1.0, 0.5, 0.0), 8))  # type: ignore[arg-type]
    plain = Objective(None, ObjectiveSettings(ObjectiveOptions(), (1.0, 1.0, 1.0), 8))  # type: ignore[arg-type]
    ratio = objective.row_weights(batch) / plain.row_weights(batch)
    assert {int(part): set(ratio[batch.part == part]) for part in set(batch.part)} == {0: {1.0}, 1: {0.5}, 4: {0.5}}


def test_the_longest_response_enters_only_where_it_is_asked_for(workshop: Any) -> None:
    batch = workshop.batch()
    for name, factor in (("token-mean", 1.0), ("seq-mean-token-sum-norm", 0.25)):
        options = ObjectiveOptions.model_validate({"aggregation": name})
        short, long = (Objective(None, ObjectiveSettings(options, (1.0, 1.0), n)).row_weights(batch) for n in (8, 32))  # type: ignore[arg-type]
        assert long == pytest.approx(short * factor)


def test_an_entropy_bonus_raises_the_entropy(workshop: Any) -> None:
    batch = workshop.batch(seed=8)
    batch.advantages[:] = 0
    entropies = []
    for coef in (0.0, 1.0):
        learner = workshop.learner(kl_coef=0.0, objective={"entropy": {"coef": coef}})
        entropies.append([learner.update(batch, step).metrics["entropy"] for step in range(1, 6)])
    assert entropies[0] == pytest.approx([entropies[0][0]] * 5, abs=1e-6)
    assert all(later > earlier for earlier, later in zip(entropies[1], entropies[1][1:], strict=False))
    assert entropies[1][-1] > entropies[0][0] + 0.01
