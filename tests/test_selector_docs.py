"""docs/selectors.md names every selector and reward, and its account of `reliability` holds on the recorded answers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from harmonyray.answers.equivalence import Equivalence
from harmonyray.registry import BUILT_IN

ROOT = Path(__file__).parent.parent
RECORDED = ROOT.parent / "shared" / "data" / "recorded"
needs_recorded = pytest.mark.skipif(not RECORDED.exists(), reason="the shared recorded answers are not beside this checkout")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("recorded_selectors", ROOT / "benchmarks" / "recorded_selectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["selectors", "rewards"])
def test_every_name_is_explained(kind: str) -> None:
    text = (ROOT / "docs" / "selectors.md").read_text(encoding="utf-8")
    assert [name for name in BUILT_IN[kind] if f"`{name}`" not in text] == []


@needs_recorded
def test_reliability_wins_where_views_err_independently(benchmark: ModuleType) -> None:
    with Equivalence() as equivalence:
        got = benchmark.measure("mgsm_pairs", RECORDED, equivalence)["accuracy"]
    assert got["reliability"] > got["majority"] > got["(harmonic, else majority)"] > got["harmonic"]
    assert got["reliability"] == pytest.approx(0.8434, abs=2e-3)


@needs_recorded
def test_reliability_loses_where_a_view_is_confidently_wrong(benchmark: ModuleType) -> None:
    with Equivalence() as equivalence:
        got = benchmark.measure("quickstart_B", RECORDED, equivalence)["accuracy"]
    assert got["reliability"] == pytest.approx(0.6328, abs=2e-3)
    assert got["reliability"] < got["majority"] < got["harmonic"]
