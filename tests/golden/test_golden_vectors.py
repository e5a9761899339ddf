"""This package against what the published implementation computes (README.md here): cases without `differs` agree, the others
differ for the reason they give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harmonyray.algos.rewards import gate, sharpness_penalty, subtract
from harmonyray.algos.transport import fused_distribution, kl_distance, w1_distance, w2_distance
from harmonyray.answers.extract import choice_letter, extract_answer
from harmonyray.selectors import select
from harmonyray.views.sections import split_sections

HERE = Path(__file__).parent
FULL = HERE.resolve().parents[2] / "shared" / "data" / "golden" / "vote.jsonl"
RULES: dict[str, tuple[str, dict[str, Any], str]] = {
    "harmonic": ("harmonic", {}, "harmonic_mean_score"),
    "harmonic_smoothed": ("harmonic", {"smoothing": 1}, "harmonic_mean_score_laplace"),
    "determinant": ("determinant", {}, "determinant_mutual_info_score"),
    "mutual_information": ("mutual_information", {}, "mutual_info_score"),
    "majority": ("majority", {}, "majority_tie_set"),
}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def cases(name: str) -> Any:
    return pytest.mark.parametrize("row", rows(HERE / f"{name}.jsonl"), ids=lambda row: row["id"])


@cases("vote")
def test_votes(row: dict[str, Any]) -> None:
    for rule, (name, options, _) in RULES.items():
        label = select(name, row["counts"], row["num_samples"], **options).label
        assert label[0] == label[1]
        assert (label[0] in row["acceptable"][rule]) != (rule in row.get("differs", {})), rule


@cases("distances")
def test_distances(row: dict[str, Any]) -> None:
    num_samples = np.array(row["num_samples"])
    p, fused = fused_distribution(np.array(row["counts"]) / num_samples, num_samples)
    for name, distance, places in (("w1", w1_distance, 1e-9), ("w2", w2_distance, 1e-9), ("kl", kl_distance, 1e-6)):
        got = [distance(p[:, v], fused) for v in (0, 1)]
        if name not in row.get("differs", {}):  # by chance it may agree there
            assert got == pytest.approx(row[name], abs=places), name


@cases("combine_rewards")
def test_combined_rewards(row: dict[str, Any]) -> None:
    w_f = row["format_penalty_coef"] if row["format_score"] is not None else 0.0
    w_d = row["sharpness_objective_coef"] if row["consistency_penalty"] is not None else 0.0
    reward = np.array([row["base_reward"]])
    terms = [(w_f, 1.0 - (row["format_score"] or 0.0)), (w_d, row["consistency_penalty"] or 0.0)]
    if row["mode"] == "additive":
        got = float(subtract(reward, terms)[0]) + w_f + max(w_d, 0.0)
    else:
        got = float(gate(reward, terms)[0])
    assert (got == pytest.approx(row["out"])) != ("differs" in row)


@cases("sharpness")
def test_sharpness(row: dict[str, Any]) -> None:
    assert sharpness_penalty(row["matches"], row["target"], row["max"]) == pytest.approx(row["out"])


@cases("format")
def test_format(row: dict[str, Any]) -> None:
    sections = split_sections(row["response"])
    agrees = sections.missing == pytest.approx(1 - row["total_score"] / 3) and sections.rewritten == row["rewritten"]
    assert agrees != ("differs" in row)


@cases("choice_letter")
def test_choice_letter(row: dict[str, Any]) -> None:
    agrees = [choice_letter(row["text"], n) for n in (4, 8, 10)] == [row[f"n{n}"] for n in (4, 8, 10)]
    assert agrees != ("differs" in row)


@cases("extract_answer")
def test_extract_answer(row: dict[str, Any]) -> None:
    assert ((extract_answer(row["text"]) or "") == row["out"]) != ("differs" in row)


def test_what_the_reasons_stand_for() -> None:
    """The cases with a reason, by hand: the last letter, spaces around an answer, sizes that differ from numbers of answers."""
    assert [choice_letter(text, 4) for text in ("B or C", "not A but B", "I think B", "1A")] == ["C", "B", "B", None]
    assert extract_answer("\\boxed{ 5 }") == extract_answer("\\boxed\n{5}") == extract_answer("\\boxed{5}\\boxed") == "5"
    # 1 of 4 and 12 of 16 against 3 of 4 and 4 of 16: the harmonic means of the shares are both 3/8, and 13 is more than 7.
    assert select("harmonic", [[1, 12], [3, 4]], [4, 16]).label == (0, 0)


def cluster(row: dict[str, Any]) -> tuple[list[str], list[list[int]]]:
    """Distinct strings in the order of first appearance, and their counts per view; None and "" are no answers."""
    texts: list[str] = []
    counts: list[list[int]] = []
    for v, view in enumerate(("ori", "aug")):
        for text in filter(None, row[view]):
            if text not in texts:
                texts.append(text)
                counts.append([0, 0])
            counts[texts.index(text)][v] += 1
    return texts, counts


@pytest.mark.skipif(not FULL.exists(), reason="the shared golden data is not beside this checkout")
def test_all_votes_with_equal_views() -> None:
    """Every unflagged case, and every flagged one in which both views have as many samples and answers."""
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
        for rule, (name, options, published) in RULES.items():
            label = select(name, counts, num_samples, **options).label[0]
            assert ("" if label is None else texts[label]) in row["acceptable"][published], (row["id"], rule)
    assert num_unflagged >= 14
    assert num_checked >= 100
