"""The tokens of highest entropy, and the band, by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harmonyray.algos.entropy import band_penalty, num_top, top_entropy
from harmonyray.config_objective import EntropyBand, EntropyOptions


def test_the_top_of_every_row_by_hand() -> None:
    rows = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2])
    entropy = torch.tensor([0.1, 3.0, 0.2, 2.0, 0.3, 5.0, 6.0, 0.0])
    # 40 % of 5, 2 and 1 tokens, rounded up: 2, 1, 1.
    got = top_entropy(entropy, rows, 0.4)
    assert got.tolist() == [False, True, False, True, False, False, True, True]


def test_of_equal_entropies_the_first() -> None:
    rows = torch.tensor([0, 0, 0, 0])
    assert top_entropy(torch.tensor([1.0, 2.0, 2.0, 2.0]), rows, 0.5).tolist() == [False, True, True, False]
    assert top_entropy(torch.zeros(4), rows, 0.75).tolist() == [True, True, True, False]


def test_how_many_by_hand() -> None:
    lengths = torch.tensor([1, 3, 10, 30])
    assert num_top(lengths, 0.1).tolist() == [1, 1, 1, 3]
    assert num_top(lengths, 0.2).tolist() == [1, 1, 2, 6]
    assert num_top(lengths, 0.7).tolist() == [1, 3, 7, 21]
    assert num_top(lengths, 1.0).tolist() == [1, 3, 10, 30]


@given(st.lists(st.lists(st.floats(0, 5), min_size=1, max_size=12), min_size=1, max_size=5), st.floats(0.01, 1))
def test_every_row_gives_its_number_and_the_rest_is_not_above(entropies: list[list[float]], share: float) -> None:
    rows = torch.tensor([r for r, row in enumerate(entropies) for _ in row])
    chosen = top_entropy(torch.tensor([x for row in entropies for x in row], dtype=torch.float64), rows, share)
    for r, row in enumerate(entropies):
        kept = chosen[rows == r].tolist()
        assert sum(kept) == int(num_top(torch.tensor([len(row)]), share))
        inside, outside = [[x for x, k in zip(row, kept, strict=True) if k is want] for want in (True, False)]
        assert min(inside) >= max(outside, default=0.0)


def test_the_band_by_hand() -> None:
    entropy = torch.tensor([0.1, 0.5, 1.0, 2.0, 2.75], requires_grad=True)
    value = band_penalty(entropy, EntropyBand(low=0.5, high=2.0, coef=1.0))
    assert value.tolist() == pytest.approx([0.4, 0, 0, 0, 0.75])
    value[[0, 2, 4]].sum().backward()
    assert entropy.grad is not None
    assert entropy.grad.tolist() == [-1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    "bad",
    [{"top_share": 0}, {"top_share": 1.1}, {"coef": -1}, {"band": {"low": 2.0, "high": 1.0, "coef": 1}}, {"band": {"low": 1}}],
)
def test_bad_options(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EntropyOptions.model_validate(bad)
