"""The user's own classes as `package.module:Class`: found on the path, their options checked, and every way to miss."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmonyray.config import load_config
from harmonyray.errors import ConfigError
from harmonyray.registry import make_options, nearest, resolve

MODULE = '''
from pydantic import BaseModel, ConfigDict

from harmonyray.registry import PluginOptions
from harmonyray.selectors import Selector, SelectorOptions
from harmonyray.types import ParsedResponse, Prompt


class Shout:
    """A view."""

    class Options(PluginOptions):
        preamble: str
        times: int = 1

    def __init__(self, name, options):
        self.name, self.options = name, options

    def render(self, problem):
        return Prompt(problem.id, self.name, text=self.options.preamble * self.options.times + problem.text)

    def parse(self, problem, response):
        return ParsedResponse(answer=response.strip() or None)


class Unpopular(Selector):
    """A selector."""

    class Options(SelectorOptions):
        base: float = 1.0

    def __init__(self, options):
        super().__init__(options)
        self.base = options.base

    def scores(self, support, counts, num_samples):
        return self.base - support.mean(axis=1)


class Bare:
    """A method that derives from nothing."""

    needs_gold = False

    class Options(PluginOptions):
        bonus: float = 0.0

    def __init__(self, options, context):
        self.options, self.context = options, context

    def judge(self, groups, step):
        return []


class Plain:
    """Options of plain pydantic."""

    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid")
        x: int = 1


class Lax:
    class Options(BaseModel):
        x: int = 1


class NoOptions:
    pass


not_a_class = 3
'''


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package of the user's own, importable."""
    name = "users_own_plugins"
    folder = tmp_path / "lib" / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "parts.py").write_text(MODULE)
    (folder / "needs_more.py").write_text("import a_package_that_is_not_there\n")
    (folder / "raises.py").write_text("class Found: pass\nFound.nothing\n")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    importlib.invalidate_caches()
    yield f"{name}.parts"
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        del sys.modules[module]


def test_a_view_a_selector_and_a_method_of_the_users_own(plugins: str) -> None:
    config = load_config(
        "quickstart",
        [
            f"views.shout={{type: '{plugins}:Shout', preamble: 'HEY ', times: 2, num_samples: 3}}",
            f"method.selector={{type: '{plugins}:Unpopular', base: 2.0}}",
        ],
    )
    assert list(config.views) == ["solver", "reframer", "shout"]
    assert config.views["shout"].num_samples == 3
    assert config.views["shout"].options.model_dump() == {"preamble": "HEY ", "times": 2}
    selector = config.method.options.selector.build()
    assert selector.select([[3, 3], [1, 1]], [4, 4]).label == (1, 1)  # the rarer answer: 2 - 0.25 > 2 - 0.75
    method = load_config("quickstart", [f"method.type={plugins}:Bare", "method.bonus=0.5", "views.reframer=null"]).method
    assert (method.type, method.options.bonus) == (f"{plugins}:Bare", 0.5)


def test_options_of_plain_pydantic_will_do_if_they_forbid_extras(plugins: str) -> None:
    assert make_options("views", f"{plugins}:Plain", "views.x", {"x": 2}).x == 2
    assert load_config("quickstart", [f"views.x={{type: '{plugins}:Plain', x: 4}}"]).views["x"].options.x == 4


def test_a_written_config_names_the_users_class(plugins: str, tmp_path: Path) -> None:
    config = load_config("quickstart", [f"views.shout={{type: '{plugins}:Shout', preamble: 'a'}}"])
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(str(tmp_path / "config.yaml")) == config


CASES = [
    ("{p}:Shout", {}, "missing option 'views.own.preamble'"),
    ("{p}:Shout", {"preamble": "a", "tims": 2}, "unknown option 'views.own.tims': did you mean 'times'"),
    ("{p}:Shout", {"preamble": "a", "times": "x"}, "bad value for 'views.own.times'"),
    ("{p}:Shuot", {}, "has no class 'Shuot': did you mean 'Shout'"),
    ("{p}:not_a_class", {}, "has no class 'not_a_class'"),
    ("{p}:NoOptions", {}, "needs a nested class Options"),
    ("{p}:Lax", {}, "forbids extra keys"),
    ("users_own_plugins.absent:X", {}, "no module 'users_own_plugins.absent' can be imported.*PYTHONPATH"),
    ("never_heard_of:X", {}, "no module 'never_heard_of' can be imported"),
    ("os.nothing:X", {}, "no module 'os.nothing'"),
]


@pytest.mark.parametrize(("target", "options", "message"), CASES)
def test_every_way_to_miss(plugins: str, target: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_options("views", target.format(p=plugins), "views.own", options)


def test_a_module_whose_own_import_fails_is_not_called_missing(plugins: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        resolve("views", "users_own_plugins.needs_more:X")


def test_a_module_that_breaks_is_not_called_a_missing_class(plugins: str) -> None:
    with pytest.raises(AttributeError, match="nothing"):
        resolve("views", "users_own_plugins.raises:Found")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("harmnic", "did you mean 'harmonic'?"),
        ("zzz", "expected one of: geometric, harmonic"),
        ("", "expected one of: geometric, harmonic"),
    ],
)
def test_nearest(name: str, expected: str) -> None:
    assert nearest(name, ["harmonic", "geometric"]) == expected
