"""Selectors of somebody's own: the documentation's example, what the base class checks, and classes that are none."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harmonyray.errors import ConfigError
from harmonyray.selectors import Selector, SelectorOptions, select, select_many
from harmonyray.selectors.base import proportions
from harmonyray.selectors.nested import SelectorSpec
from harmonyray.types import FloatArray

DOCS = Path(__file__).parents[2] / "docs" / "plugins.md"


class Given(Selector):
    """Gives what a test wants."""

    class Options(SelectorOptions):
        kind: str

    def scores(self, support: FloatArray, counts: FloatArray, num_samples: FloatArray) -> Any:
        shape = support.shape[:-1]
        return {
            "fine": np.ones(shape),
            "apart": support,
            "integers": [1] * shape[0],
            "nan": np.full(shape, np.nan),
            "infinite": np.full(shape, np.inf),
            "scalar": 1.0,
            "one": np.ones(1),
            "per_view": np.ones(num_samples.shape),
            "text": ["a"] * shape[0],
            "none": None,
            "either": support if shape[0] == 2 and counts[0, 0] == 1 else np.ones(shape),
        }[self.options.kind]


class GivenAtOnce(Given):
    """The same for many problems at once."""

    batched = True


class Scoreless(Selector):
    """Lacks `scores`."""


class Selectless:
    """No selector at all."""

    Options = SelectorOptions


COUNTS, NUM = (
    [[2, 1], [1, 2], [0, 0]],
    [
        4,
        4,
    ],
)


def name(cls: type[Any]) -> str:
    return f"{cls.__module__}:{cls.__name__}"


@pytest.mark.parametrize("kind", ["fine", "apart", "integers"])
def test_scores_that_fit(kind: str) -> None:
    assert select(name(Given), COUNTS, NUM, kind=kind).label == (0, 0) if kind != "apart" else (0, 1)
    assert len(select_many(name(Given), [COUNTS, []], [NUM, NUM], kind=kind)) == 2


@pytest.mark.parametrize("cls", [Given, GivenAtOnce])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", r"scores\(\) must be finite, got nan for counts \[\[2"),
        ("infinite", "must be finite, got inf"),
        ("scalar", r"one number per cluster, shape \((1, )?3,?\).*got shape \(\)"),
        ("one", r"got shape \(1,\)"),
        ("per_view", r"got shape \((1, )?2,?\)"),
        ("text", "must give numbers, got list"),
        ("none", "must be finite|must give numbers|got shape"),
    ],
)
def test_scores_that_do_not_fit(cls: type[Any], kind: str, message: str) -> None:
    for run in (lambda: select(name(cls), COUNTS, NUM, kind=kind), lambda: select_many(name(cls), [COUNTS], [NUM], kind=kind)):
        with pytest.raises(ConfigError, match=message) as caught:
            run()
        assert cls.__name__ in str(caught.value)


def test_views_judged_apart_now_and_then() -> None:
    with pytest.raises(ConfigError, match="always or never"):
        select_many(name(Given), [[[2, 1], [1, 2]], [[1, 1], [1, 1]]], [NUM, NUM], kind="either")


@pytest.mark.parametrize(
    ("cls", "message"),
    [(Scoreless, "class Scoreless has no scores"), (Selectless, r"class Selectless has no select\(counts, num_samples")],
)
def test_classes_that_are_none_are_named_with_the_options(cls: type[Any], message: str) -> None:
    """When the configuration is read, that is."""
    with pytest.raises(ConfigError, match=message):
        SelectorSpec(type=name(cls))
    with pytest.raises(ConfigError, match=message):
        select("bootstrap", COUNTS, NUM, of=name(cls))


def test_a_mapping_with_its_type() -> None:
    spec = {"type": "arithmetic", "weights": [0, 1]}
    assert select(spec, COUNTS, NUM).label == select("arithmetic", COUNTS, NUM, weights=[0, 1]).label == (1, 1)
    assert select_many(spec, [COUNTS], [NUM], min_score=0.9)[0].label == (None, None)
    for wrong, message in [({"weights": [0, 1]}, "mapping with its 'type'"), (7, "got 7"), ({"type": 7}, "got")]:
        with pytest.raises(ConfigError, match=message):
            select(wrong, COUNTS, NUM)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'weights' is given twice"):
        select(spec, COUNTS, NUM, weights=[1, 1])


def test_proportions_do_not_overflow() -> None:
    assert proportions([1e308, 1e308]).tolist() == [0.5, 0.5]
    assert proportions([5e-324, 5e-324, 0]).tolist() == [0.5, 0.5, 0]
    assert proportions([0.6, 0.4]).tolist() == pytest.approx([0.6, 0.4])
    assert select("harmonic", COUNTS, NUM, weights=[1e308, 1e308]).label == select("harmonic", COUNTS, NUM).label
    assert select("mixed", COUNTS, NUM, of=["harmonic", "majority"], probs=[1e308, 1e308]).label == (0, 0)


def test_the_documented_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.search(r"```python\n(# my_selectors.py\n.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.S)
    assert block is not None
    (tmp_path / "my_selectors.py").write_text(block[1])
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "my_selectors", raising=False)
    # Shares (2/4, 1/4) and (1/4, 3/4), kept at half and at the smallest: 3/8 and 1/4, 1/2 and 1/4.
    counts = [[2, 1], [1, 3]]
    assert select("my_selectors:Cautious", counts, NUM).scores.tolist() == pytest.approx([0.25 + 0.5 * 0.125, 0.25 + 0.5 * 0.25])
    assert select("my_selectors:Cautious", counts, NUM, trust=0).scores.tolist() == [0.25, 0.25]
    assert select("my_selectors:Cautious", counts, NUM, trust=0).tie
    many = select_many("my_selectors:Cautious", [counts, [[4, 4]]], [NUM, NUM], trust=1)
    assert [c.label for c in many] == [(1, 1), (0, 0)]
    with pytest.raises(ConfigError, match="'trust'"):
        select("my_selectors:Cautious", counts, NUM, trust=2)
