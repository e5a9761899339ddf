"""The configurations of docs/views.md load, and what it says about them holds."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from harmonyray.config import Config, load_config
from harmonyray.registry import BUILT_IN, resolve
from harmonyray.types import Problem
from harmonyray.views.audit import audit_views
from harmonyray.views.same import same_prompts

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "views.md").read_text()
GROUPS = "three-views-two-groups.yaml"
PROBLEM = Problem("52-37", "52-37", kind="number")


def blocks(text: str) -> dict[str, str]:
    return {name: block for block, name in re.findall(r"```\w+\n(# (\S+)\n.*?)```", text, flags=re.S)}


def load(name: str, folder: Path) -> Config:
    (folder / name).write_text(blocks(TEXT)[name])
    return load_config(str(folder / name))


def build(config: Config, name: str) -> Any:
    view = config.views[name]
    return resolve("views", view.type)(name, view.options)


@pytest.mark.parametrize("name", blocks(TEXT))
def test_every_configuration_loads_and_poses_its_problems(name: str, tmp_path: Path) -> None:
    config = load(name, tmp_path)
    views = [build(config, name) for name, view in config.views.items() if view.model is None]
    assert same_prompts(views, [PROBLEM]) == []
    (tmp_path / "again.yaml").write_text(config.to_yaml())
    assert load_config(str(tmp_path / "again.yaml")) == config


def test_all_the_configurations_are_there() -> None:
    assert list(blocks(TEXT)) == ["five-views.yaml", "own-strategies.yaml", "chat.yaml", "staged.yaml", GROUPS, "audit.yaml"]


def test_five_views_are_five(tmp_path: Path) -> None:
    config = load("five-views.yaml", tmp_path)
    assert [view.type for view in config.views.values()] == ["solver", "reframer", "reframer", "persona", "prompt"]


def test_the_staged_example_drives_the_quickstart_model(tmp_path: Path) -> None:
    view = build(load("staged.yaml", tmp_path), "reframer")
    draft = "STRATEGY: count up\nREWRITTEN PROBLEM: 37+?=52\n"
    assert view.render(PROBLEM).text == "REFRAME: 52-37\n"
    assert view.follow_up(PROBLEM, draft).text == f"REFRAME: 52-37\n{draft}SOLUTION: "


def test_every_view_and_every_metric_is_explained() -> None:
    assert {name for name in BUILT_IN["views"] if f"| `{name}` |" not in TEXT} == set()
    assert audit_views.__doc__ is not None
    named = set(re.findall(r"audit/\{view\}/\w+", audit_views.__doc__))
    assert len(named) == 7
    assert named == set(re.findall(r"\| `(audit/\{view\}/\w+)", TEXT))


def test_a_view_of_your_own_is_named_like_this(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class of docs/plugins.md in a package; `tests/test_docs.py` trains with it."""
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "views.py").write_text(blocks((DOCS / "plugins.md").read_text())["my_views.py"])
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    config = load_config("quickstart", ["views.reframer={type: 'my_package.views:Socratic', preamble: 'Why? '}"])
    view = build(config, "reframer")
    assert view.render(PROBLEM).text == "Why? SOLVE: 52-37\n"
    assert view.parse(PROBLEM, "12-7=5 4-3=1 \\boxed{15}").answer == "15"
