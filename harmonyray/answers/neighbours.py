"""Which answers of one problem may be equal by exact reading: found by their numbers, without looking at every pair.

Sound, not complete: every pair that `compare.decide` calls equal is among the pairs given here, others may be too.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction

from harmonyray.answers.compare import MIN_ROUNDED_PLACES
from harmonyray.answers.normalize import Canonical
from harmonyray.answers.sequences import numbers
from harmonyray.answers.units import PERCENT

_Place = tuple[Fraction, Fraction, int]  # (value, how far a rounded one reaches, which answer)


def neighbours(answers: Sequence[Canonical]) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of `answers` that exact reading may call equal; a pair may come more than once.

    Plain numbers lie at their value (a percentage also at a hundredth of it), `5 m` at 5, tuples and matrices at the sum
    of their items weighted by position, sets where their ends say. Equal ones lie at the same place, or within what the
    rounded decimals of one of the two allow. Answers without a place are equal only by their key. Linear but for
    sorting and for the pairs found.
    """
    places: dict[str, list[_Place]] = {}
    keys: dict[str, list[int]] = {}
    for index, answer in enumerate(answers):
        keys.setdefault(answer.key, []).append(index)
        for shape, value, reach in _places(answer):
            places.setdefault(shape, []).append((value, reach, index))
    for same in keys.values():
        yield from _all_pairs(same)
    for shape in sorted(places):
        yield from _near(sorted(places[shape]))


def _all_pairs(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    for n, i in enumerate(indices):
        for j in indices[n + 1 :]:
            yield (i, j) if i < j else (j, i)


def _near(places: Sequence[_Place]) -> Iterator[tuple[int, int]]:
    values = [value for value, _, _ in places]
    start = 0
    while start < len(places):
        end = bisect_right(values, values[start], start)
        yield from _all_pairs([index for _, _, index in places[start:end]])
        start = end
    for value, reach, index in places:
        if reach:
            for other in range(bisect_left(values, value - reach), bisect_right(values, value + reach)):
                found = places[other][2]
                if found != index and values[other] != value:
                    yield (index, found) if index < found else (found, index)


def _places(answer: Canonical) -> Iterator[tuple[str, Fraction, Fraction]]:
    """(shape, value, reach) of an answer, none for one without numbers."""
    if answer.value is not None:
        yield "number", answer.value, _reach(answer)
        if answer.unit == PERCENT:
            yield "number", answer.value / 100, Fraction(0)
        return
    if answer.measured is not None:
        yield "number", answer.measured[0], Fraction(0)
    found = numbers(answer.body)
    if found is None:
        return
    items = [(item.value, _reach(item)) for item in found.items if item.value is not None]
    infinite = [(n, item.key) for n, item in enumerate(found.items) if item.value is None]
    if found.shape == "set":
        place = 3 * max(items)[0] + 2 * min(items)[0] if items else Fraction(0)
        shape = "set " + " ".join(sorted({key for _, key in infinite}))
        yield shape, place, 5 * max((reach for _, reach in items), default=Fraction(0))
    else:
        shape = f"{found.shape} {len(found.items)} {infinite}"
        value = sum((n * value for n, (value, _) in enumerate(items, 1)), Fraction(0))
        yield shape, value, 2 * sum((n * reach for n, (_, reach) in enumerate(items, 1)), Fraction(0))


def _reach(number: Canonical) -> Fraction:
    """Half a unit of the last place of a decimal of enough digits, 0 for other numbers."""
    if number.decimals is None or number.decimals < MIN_ROUNDED_PLACES:
        return Fraction(0)
    return Fraction(1, 2 * 10**number.decimals)
