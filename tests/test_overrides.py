"""`key=value` of a command line."""

from __future__ import annotations

import pytest

from harmonyray.errors import ConfigError
from harmonyray.overrides import read_items


def test_values_are_read_as_yaml_reads_them() -> None:
    items = ["a.b=2", "a.c=[1, x]", "d={e: null}", "f=", 'g="#1"', "h=a=b", "i=${a.b}"]
    assert read_items(items, "-o", "x=1") == {
        "a": {"b": 2, "c": [1, "x"]},
        "d": {"e": None},
        "f": None,
        "g": "#1",
        "h": "a=b",
        "i": "${a.b}",
    }


@pytest.mark.parametrize("value", ["####", "#", '#"quoted" \\n'])
def test_a_value_that_yaml_would_drop_as_a_comment_is_that_text(value: str) -> None:
    assert read_items([f"problems.answer_after={value}"], "-o", "x=1") == {"problems": {"answer_after": value}}


@pytest.mark.parametrize(
    ("item", "message"),
    [("abc", "override 'abc' is not of the form key=value, e.g. x=1"), ("=3", "not of the form"), ("a={q} {r}", "double quotes")],
)
def test_what_cannot_be_read_says_how_to_write_it(item: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_items([item], "override", "x=1")
