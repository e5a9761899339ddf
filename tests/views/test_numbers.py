"""The numbers of a question, by value, and the share of them that a rewording keeps."""

from __future__ import annotations

import time

import pytest

from harmonyray.views.numbers import kept_share, numbers


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("no numbers, five at most", set()),
        ("52-37", {"52", "37"}),
        ("1,000 and 1000 and 1000.0 and 01000", {"1000"}),
        ("$1{,}000$ or $1\\,000$ or $1\\!000$ or $1,\\!000$", {"1000"}),
        ("12,345,678.90", {"12345678.9"}),
        ("1,2,3", {"1", "2", "3"}),
        ("(1, 200)", {"1", "200"}),
        ("1,0000", {"1", "0"}),
        ("0.5 is .5 is 0.50", {"0.5"}),
        ("He has 5. Then 7.", {"5", "7"}),
        ("-3 and +3", {"3"}),
        ("1/2", {"1", "2"}),
        ("\\frac{1}{2}x^{10}", {"1", "2", "10"}),
        ("3 apples, x2", {"3", "2"}),
        ("0 and 000 and 0.0", {"0"}),
        ("50% of $20", {"50", "20"}),
        ("٣ and ３", {"3"}),
        ("10²", {"10"}),
        ("2.5.7", {"2.5", "0.7"}),
    ],
)
def test_numbers(text: str, found: set[str]) -> None:
    assert numbers(text) == found


@pytest.mark.parametrize(
    ("question", "rewording", "share"),
    [
        ("52-37", "37+?=52", 1.0),
        ("52-37", "55-40", 0.0),
        ("12 of 1,000 in 3 days", "In 3 days, 12 out of 1000", 1.0),
        ("12 of 1,000 in 3 days", "1000 in 12 weeks", 2 / 3),
        ("5 and 5 and 5 and 7", "5", 1 / 2),  # distinct numbers
        ("5", "five", 0.0),
        ("5", "", 0.0),
        ("five", "5", None),
        ("", "", None),
    ],
)
def test_kept_share(question: str, rewording: str, share: float | None) -> None:
    assert kept_share(question, rewording) == (share if share is None else pytest.approx(share))


MB = 1_000_000


@pytest.mark.parametrize(
    "text", ["1" * MB, "1," * MB, "111," * MB, "1." * MB, "." * MB, "1{,}" * MB, "0" * MB, "\\," * MB, "٣" * MB]
)
def test_megabytes_are_read_in_time(text: str) -> None:
    start = time.process_time()
    numbers(text)
    assert time.process_time() - start < 5.0
