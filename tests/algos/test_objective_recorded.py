"""Advantages, losses, aggregations, importance weights and KL against what an established GRPO framework computes, by way of the
objective that learners use: values and gradients."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harmonyray.algos.advantages import DrGrpo, Grpo, Rloo
from harmonyray.algos.importance import importance_weights
from harmonyray.algos.kl import KL_ESTIMATES
from harmonyray.algos.losses.cispo import Cispo
from harmonyray.algos.losses.gspo import Gspo
from harmonyray.algos.losses.ppo_clip import PpoClip
from harmonyray.algos.objective import Objective, Tokens
from harmonyray.config_objective import ImportanceOptions, ObjectiveOptions, ObjectiveSettings
from harmonyray.protocols import Loss
from harmonyray.types import Batch

SHIPPED = Path(__file__).parent / "data" / "grpo_cases.jsonl"
RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "golden" / "grpo_dev.jsonl"
AGGREGATIONS = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm")


@pytest.fixture(scope="module", params=["shipped", "recorded"])
def cases(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    path = SHIPPED if request.param == "shipped" else RECORDED
    if not path.exists():
        pytest.skip("the shared golden data is not beside this checkout")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= (4 if path == SHIPPED else 30)
    return rows


def advantages_of(row: dict[str, Any], advantage: Any) -> np.ndarray:
    """Of a recorded case, float[B]: its groups stand in for a problem's views."""
    group, reward = np.array(row["group"]), np.array(row["reward"])
    out = np.zeros(len(group))
    for g in sorted(set(row["group"])):
        out[group == g] = advantage.advantages(reward[None, group == g])[0]
    return out


def losses_of(row: dict[str, Any]) -> dict[str, Loss]:
    clip = {"clip_low": row["clip_low"], "clip_high": row["clip_high"]}
    return {
        "ppo_clip": PpoClip(PpoClip.Options(**clip, dual_clip=row["dual_clip"])),
        "gspo": Gspo(Gspo.Options(**clip)),
        "cispo": Cispo(Cispo.Options(**clip)),
    }


def batch_of(row: dict[str, Any]) -> Batch:
    """One part of rows without prompts: only what the weights of rows are made of."""
    mask = np.array(row["mask"], dtype=bool)
    lengths, zeros = mask.sum(1), np.zeros(mask.shape, dtype=np.float32)
    one = np.zeros(len(mask), np.int64)
    return Batch(np.zeros(mask.shape, dtype=np.int64), lengths, mask, zeros, zeros, one, zeros[:, 0], one)


def recorded_loss(row: dict[str, Any], loss: Loss, aggregation: str) -> tuple[float, float, Tensor]:
    """The loss, the share that was clipped and the gradient float[B, T]; the ratios are to the old log-probs, as recorded."""
    mask = torch.tensor(row["mask"], dtype=torch.bool)
    options = ObjectiveOptions.model_validate({"aggregation": aggregation, "kl_coef": 0, "importance": {"type": "none"}})
    objective = Objective(loss, ObjectiveSettings(options, (1.0,), mask.shape[1]))
    x = torch.tensor(row["new_logprob"], requires_grad=True)
    flat = x[mask]
    advantages = torch.tensor(advantages_of(row, Grpo(Grpo.Options())), dtype=torch.float32)
    rows = mask.nonzero()[:, 0]
    tokens = Tokens(flat, torch.zeros_like(flat), torch.tensor(row["old_logprob"])[mask], advantages[rows], rows)
    per_token, seen = objective.per_token(tokens)
    weight = torch.from_numpy(objective.row_weights(batch_of(row))).float()
    value = (per_token * weight[rows]).sum()
    value.backward()
    assert x.grad is not None
    return float(value.detach()), float(seen["clipped"].mean()), x.grad


@pytest.mark.parametrize("name", ["ppo_clip", "gspo", "cispo"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_loss_clip_fraction_and_gradient(cases: list[dict[str, Any]], name: str, aggregation: str) -> None:
    for row in cases:
        want = row["expected"][f"loss_{name}_{aggregation}"]
        value, clip_fraction, gradient = recorded_loss(row, losses_of(row)[name], aggregation)
        assert value == pytest.approx(want["loss"], abs=1e-5), row["id"]
        assert clip_fraction == pytest.approx(want["clip_fraction"], abs=1e-5), row["id"]
        assert gradient.numpy() == pytest.approx(np.array(want["grad_logprob"]), abs=1e-5), row["id"]


def test_the_cases_reach_every_bound(cases: list[dict[str, Any]]) -> None:
    """Clipping and the dual clip act in some of them, so that agreeing means something."""
    assert any(row["expected"]["loss_ppo_clip_token-mean"]["clip_fraction"] > 0.1 for row in cases)
    assert len({(row["clip_low"], row["clip_high"]) for row in cases}) == 3
    without = {
        row["id"]: recorded_loss({**row, "dual_clip": None}, losses_of({**row, "dual_clip": None})["ppo_clip"], "token-mean")
        for row in cases
    }
    assert any(abs(without[row["id"]][0] - row["expected"]["loss_ppo_clip_token-mean"]["loss"]) > 1e-3 for row in cases)


@pytest.mark.parametrize("advantage", [Grpo, DrGrpo, Rloo])
def test_advantages(cases: list[dict[str, Any]], advantage: Any) -> None:
    key = {Grpo: "adv_grpo", DrGrpo: "adv_dr_grpo", Rloo: "adv_rloo"}[advantage]
    for row in cases:
        got = advantages_of(row, advantage(advantage.Options()))
        assert got == pytest.approx(np.array(row["expected"][key]), abs=1e-5), row["id"]


@pytest.mark.parametrize("name", ["k1", "k2", "k3", "abs"])
def test_kl(cases: list[dict[str, Any]], name: str) -> None:
    for row in cases:
        mask = np.array(row["mask"], dtype=bool)
        got = KL_ESTIMATES[name](torch.tensor(row["new_logprob"]), torch.tensor(row["ref_logprob"])).numpy()
        assert got[mask] == pytest.approx(np.array(row["expected"][f"kl_{name}"])[mask], abs=1e-5), row["id"]


@pytest.mark.parametrize(
    ("key", "scale", "options"),
    [
        ("tis_token_2.0", 1, {"type": "truncate", "level": "token", "high": 2.0}),
        ("tis_sequence_2.0", 1, {"type": "truncate", "level": "sequence", "high": 2.0}),
        ("icepop_token_0.5_2.0_ratio_x8", 8, {"type": "mask", "level": "token", "low": 0.5, "high": 2.0}),
    ],
)
def test_importance_weights(cases: list[dict[str, Any]], key: str, scale: int, options: dict[str, Any]) -> None:
    """The recorded mask has log-ratios eight times as large, so that it acts."""
    importance = ImportanceOptions.model_validate(options)
    for row in cases:
        mask = torch.tensor(row["mask"], dtype=torch.bool)
        learner, engine = scale * torch.tensor(row["old_logprob"]), scale * torch.tensor(row["rollout_logprob"])
        weight, cut = importance_weights(learner[mask], engine[mask], mask.nonzero()[:, 0], importance)
        want = torch.tensor(row["expected"][key])[mask]
        assert weight.numpy() == pytest.approx(want.numpy(), abs=1e-5), row["id"]
        assert scale == 1 or cut.tolist() == (want == 0).tolist()


@pytest.mark.parametrize("name", ["k1", "k2", "k3", "abs"])
def test_kl_in_the_reward(cases: list[dict[str, Any]], name: str) -> None:
    """On recorded log-probs, rewards, estimates and clips: the clipped loss and its slope by a loop over tokens."""
    coef = 0.3
    for row in cases:
        mask = torch.tensor(row["mask"], dtype=torch.bool)
        settings = {"kl": name, "kl_coef": coef, "kl_in": "reward", "importance": {"type": "none"}}
        loss = PpoClip(PpoClip.Options(clip_low=row["clip_low"], clip_high=row["clip_high"]))
        objective = Objective(loss, ObjectiveSettings(ObjectiveOptions.model_validate(settings), (1.0,), mask.shape[1]))
        x, advantages, rows = (
            torch.tensor(row["new_logprob"], requires_grad=True),
            row["expected"]["adv_grpo"],
            mask.nonzero()[:, 0],
        )
        flat, old, reference = x[mask], torch.tensor(row["old_logprob"])[mask], torch.tensor(row["ref_logprob"])[mask]
        tokens = Tokens(flat, torch.zeros_like(flat), old, torch.tensor(advantages)[rows], rows, reference)
        got, seen = objective.per_token(tokens)
        got.sum().backward()
        assert x.grad is not None
        wanted, slopes = [], torch.zeros_like(x)
        for b, t in mask.nonzero().tolist():
            to_come = sum(row["expected"][f"kl_{name}"][b][s] for s in range(t, mask.shape[1]) if mask[b, s])
            advantage, ratio = advantages[b] - coef * to_come, math.exp(row["new_logprob"][b][t] - row["old_logprob"][b][t])
            bounded = min(max(ratio, 1 - row["clip_low"]), 1 + row["clip_high"])
            wanted.append(max(-ratio * advantage, -bounded * advantage))
            slopes[b, t] = -ratio * advantage if -ratio * advantage >= -bounded * advantage else 0.0
        assert got.tolist() == pytest.approx(wanted, abs=1e-4), row["id"]
        assert x.grad.numpy() == pytest.approx(slopes.numpy(), abs=1e-4), row["id"]
        kl = np.array(row["expected"][f"kl_{name}"])[mask.numpy()]
        assert seen["kl"].numpy() == pytest.approx(kl, abs=1e-5), row["id"]


def test_kl_in_the_reward_by_hand() -> None:
    """Two responses of 2 and 1 tokens, advantages 1 and -1, KL coefficient 1/2, k1 of 1, 2 and -4; the ratio is 1, so that the
    loss is minus the advantage: 1 - (1 + 2)/2, 1 - 2/2, -1 + 4/2."""
    settings = ObjectiveOptions.model_validate({"kl": "k1", "kl_coef": 0.5, "kl_in": "reward"})
    objective = Objective(PpoClip(PpoClip.Options()), ObjectiveSettings(settings, (1.0,), 8))
    logprobs = torch.tensor([-1.0, -1.0, -5.0], requires_grad=True)
    reference, rows = torch.tensor([-2.0, -3.0, -1.0]), torch.tensor([0, 0, 1])
    tokens = Tokens(logprobs, torch.zeros(3), logprobs.detach(), torch.tensor([1.0, 1.0, -1.0]), rows, reference)
    loss, seen = objective.per_token(tokens)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0.5, 0.0, -1.0])
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.5, 0.0, -1.0])  # nothing flows through the penalty
    assert seen["kl"].tolist() == pytest.approx([1.0, 2.0, -4.0])
