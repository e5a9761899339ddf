"""The suite itself: nothing falls between the two commands of `make test`."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def test_what_needs_the_machine_for_itself_lies_where_the_first_command_looks() -> None:
    marked = [path for path in HERE.rglob("*.py") if "mark.alone" in path.read_text() and path != Path(__file__)]
    assert marked and {path.parent for path in marked} == {HERE / "actors"}
