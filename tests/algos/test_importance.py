"""Importance weights by hand; the recorded ones are in test_objective_recorded.py."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from harmonyray.algos.importance import importance_weights
from harmonyray.algos.token_rows import places, row_lengths, row_means, row_sums
from harmonyray.config_objective import ImportanceOptions

# Ratios 3, 1/4 | 1, 3/2 | 1/5; of the responses 3/4, 3/2 and 1/5.
ROWS = torch.tensor([0, 0, 1, 1, 2])
RATIO = torch.tensor([3.0, 0.25, 1.0, 1.5, 0.2])
ENGINE = torch.full((5,), -2.0)

CASES = [
    ("truncate", "token", [2, 0.25, 1, 1.5, 0.2], [1, 0, 0, 0, 0]),
    ("mask", "token", [0, 0, 1, 1.5, 0], [1, 1, 0, 0, 1]),
    ("truncate", "sequence", [0.75, 0.75, 1.5, 1.5, 0.2], [0, 0, 0, 0, 0]),
    ("mask", "sequence", [0.75, 0.75, 1.5, 1.5, 0], [0, 0, 0, 0, 1]),
]


@pytest.mark.parametrize(("kind", "level", "want", "want_cut"), CASES)
def test_by_hand(kind: str, level: str, want: list[float], want_cut: list[int]) -> None:
    options = ImportanceOptions.model_validate({"type": kind, "level": level, "low": 0.5, "high": 2.0})
    logprobs = (ENGINE + RATIO.log()).requires_grad_()
    weight, cut = importance_weights(logprobs, ENGINE, ROWS, options)
    assert weight.tolist() == pytest.approx(want)
    assert cut.tolist() == [bool(c) for c in want_cut]
    assert not weight.requires_grad


def test_a_response_may_be_truncated_as_a_whole() -> None:
    options = ImportanceOptions(type="truncate", level="sequence", high=1.2)
    weight, cut = importance_weights(ENGINE + RATIO.log(), ENGINE, ROWS, options)
    assert weight.tolist() == pytest.approx([0.75, 0.75, 1.2, 1.2, 0.2])
    assert cut.tolist() == [False, False, True, True, False]


@pytest.mark.parametrize("kind", ["truncate", "mask"])
def test_a_ratio_that_overflows_is_no_trouble(kind: str) -> None:
    options = ImportanceOptions.model_validate({"type": kind, "level": "sequence"})
    weight, cut = importance_weights(torch.zeros(3), torch.full((3,), -400.0), torch.tensor([0, 0, 0]), options)
    assert weight.tolist() == ([2.0] * 3 if kind == "truncate" else [0.0] * 3)
    assert cut.all()


def test_a_band_has_to_hold_something() -> None:
    with pytest.raises(ValidationError, match="every token would be left out"):
        ImportanceOptions(type="mask", low=2.0, high=2.0)


def test_rows_by_hand() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], requires_grad=True)
    assert row_lengths(ROWS).tolist() == [2, 2, 1]
    assert places(ROWS).tolist() == [0, 1, 0, 1, 0]
    assert row_sums(values, ROWS).tolist() == [3, 12, 16]
    assert row_means(values, ROWS).tolist() == [1.5, 6, 16]
    (row_sums(values, ROWS) * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1, 1, 10, 10, 100]


def test_the_log_ratio_of_a_response_is_its_tokens_sum() -> None:
    assert row_sums(RATIO.log(), ROWS).tolist() == pytest.approx([math.log(0.75), math.log(1.5), math.log(0.2)])
