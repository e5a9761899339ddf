"""Labels against what the published implementation computes on generated answers.

`data/golden_votes.jsonl` is a small subset reduced to numbers: counts, and for each rule the exact set of tied winners
(null: no label). The full set is read from `../shared` where a checkout has it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harmonyray.selectors import select

SHIPPED = Path(__file__).parent / "data" / "golden_votes.jsonl"
FULL = Path(__file__).resolve().parents[3] / "shared" / "data" / "golden" / "vote.jsonl"

RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "harmonic": ("harmonic", {}),
    "harmonic_smoothed": ("harmonic", {"smoothing": 1}),
    "determinant": ("determinant", {}),
    "mutual_information": ("mutual_information", {}),
    "majority": ("majority", {}),
}
PUBLISHED = {
    "harmonic": "harmonic_mean_score",
    "harmonic_smoothed": "harmonic_mean_score_laplace",
    "determinant": "determinant_mutual_info_score",
    "mutual_information": "mutual_info_score",
    "majority": "majority_tie_set",
}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("row", rows(SHIPPED), ids=lambda row: row["id"])
def test_shipped_cases(row: dict[str, Any]) -> None:
    for rule, (name, options) in RULES.items():
        label = select(name, row["counts"], row["num_samples"], **options).label
        assert label[0] == label[1]
        assert label[0] in row["acceptable"][rule], rule


def cluster(row: dict[str, Any]) -> tuple[list[str], list[list[int]]]:
    """Distinct strings in the order of first appearance, and their counts per view; None and "" are no answers."""
    texts: list[str] = []
    counts: list[list[int]] = []
    for v, view in enumerate(("ori", "aug")):
        for text in row[view]:
            if not text:
                continue
            if text not in texts:
                texts.append(text)
                counts.append([0, 0])
            counts[texts.index(text)][v] += 1
    return texts, counts


@pytest.mark.skipif(not FULL.exists(), reason="the shared golden data is not beside this checkout")
def test_all_cases_with_equal_views() -> None:
    """Every unflagged case, and every flagged one in which both views have as many samples and answers.

    The others are left out because the published code compares raw counts of views of different sizes, or takes the
    number of answers for the number of samples.
    """
    num_checked = num_unflagged = 0
    for row in rows(FULL):
        texts, counts = cluster(row)
        num_samples = [len(row["ori"]), len(row["aug"])]
        num_answers = [sum(c[v] for c in counts) for v in (0, 1)]
        if num_samples[0] != num_samples[1] or num_answers[0] != num_answers[1]:
            assert row["flags"], row["id"]
            continue
        num_checked += 1
        num_unflagged += not row["flags"]
        for rule, (name, options) in RULES.items():
            label = select(name, counts, num_samples, **options).label[0]
            assert ("" if label is None else texts[label]) in row["acceptable"][PUBLISHED[rule]], (row["id"], rule)
    assert num_unflagged >= 14
    assert num_checked >= 100
