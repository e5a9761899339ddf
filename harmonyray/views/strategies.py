"""Rewriting strategies: the names an option gives, the lines of a prompt, and the names that responses give."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from harmonyray.registry import nearest
from harmonyray.views.prompts import ONE_STRATEGY, SEVERAL_STRATEGIES, STRATEGIES, STRATEGIES_HERE

OTHER = "other"
MAX_UNKNOWN = 8
MIN_UNKNOWN_SHARE = 0.01
_MAX_SLUG_CHARS = 40
_MAX_NAME_CHARS = 200
_WORD = re.compile(r"[^\W_]+")
_NUMBERING = re.compile(r"^[0-9]{1,2}_(?=.)")


def slug(name: str) -> str:
    """`name` as part of a metric's name: its words in lower case joined by "_", at most 40 characters, "" if it has none."""
    words = _WORD.findall(unicodedata.normalize("NFKC", name[:_MAX_NAME_CHARS]).casefold())
    return "_".join(words)[:_MAX_SLUG_CHARS].strip("_")


def _letters(name: str) -> str:
    return slug(name).replace("_", "")


BUILT_IN = {slug(name): (name, what) for name, what in STRATEGIES}
_BY_LETTERS = {_letters(name): slug(name) for name, _ in STRATEGIES}


def read_strategies(value: Any) -> Any:
    """The option `strategies` in its normal form: the built-in names as they are spelled, or the user's own mapping.

    Names are compared without case, spaces, hyphens and underscores; one name alone stands for a list of it. Raises
    ValueError for an unknown or repeated name, an empty list, and a mapping with an empty name or explanation.
    """
    if value is None:
        return None
    if isinstance(value, str):
        value = [value]
    if isinstance(value, Mapping):
        names = [_own_name(name, what) for name, what in value.items()]
    elif isinstance(value, list | tuple):
        names = [_built_in_name(name) for name in value]
    else:
        raise ValueError("expected a list of strategy names, or a mapping from names of your own to explanations")
    if not names:
        raise ValueError("no strategy is left to use: name at least one, or leave the option out for all eight")
    repeated = [slug(name) for name, count in Counter(map(slug, names)).items() if count > 1]
    if repeated:
        raise ValueError(f"strategy {repeated[0]!r} is named twice: name it once")
    return dict(value) if isinstance(value, Mapping) else tuple(names)


StrategyChoice = Annotated[
    tuple[str, ...] | dict[str, str] | None,
    BeforeValidator(read_strategies),
    Field(
        description="names among the eight built-in strategies, or a mapping from names of your own to explanations; "
        "null: all eight"
    ),
]
"""The option `strategies`, which several views have; None stands for all eight."""


def require_placeholder(strategies: Any, template: str, option: str) -> None:
    """Raises ValueError if `strategies` were given and the template (the option of that name) has no place for them."""
    if strategies is not None and STRATEGIES_HERE not in template:
        raise ValueError(
            f"nothing would read it: the {option} never mentions {STRATEGIES_HERE}; put {STRATEGIES_HERE} where the strategies "
            "belong, or leave this option out"
        )


def strategy_block(strategies: tuple[str, ...] | Mapping[str, str] | None) -> str:
    """What `{strategies}` stands for in a prompt: a line that says to use one of them (or the only one), then one line each."""
    if strategies is None:
        offered = dict(STRATEGIES)
    elif isinstance(strategies, Mapping):
        offered = dict(strategies)
    else:
        offered = dict(BUILT_IN[slug(name)] for name in strategies)
    lines = [f"- {name}: {' '.join(what.split()).rstrip('.')}." for name, what in offered.items()]
    return "\n".join([ONE_STRATEGY if len(lines) == 1 else SEVERAL_STRATEGIES, *lines])


def named_strategy(text: str) -> str:
    """The slug of the strategy that a response names, that of a built-in one if the text is or begins with its name."""
    found = _NUMBERING.sub("", slug(text.strip().partition("\n")[0]))
    if found.replace("_", "") in _BY_LETTERS:
        return _BY_LETTERS[found.replace("_", "")]
    return next((known for known in BUILT_IN if found.startswith(f"{known}_")), found) or OTHER


def strategy_shares(texts: Iterable[str]) -> dict[str, float]:
    """The share of each strategy among those that responses name, by slug; the shares sum to 1.

    Of names that are not built in, the (at most eight) most common are told apart, each with a share of at least 0.01;
    the rest is "other".
    """
    counts = Counter(map(named_strategy, texts))
    total = counts.total()
    unknown = [name for name in counts if name not in BUILT_IN and name != OTHER]
    told_apart = sorted(unknown, key=lambda name: (-counts[name], name))[:MAX_UNKNOWN]
    kept = {*BUILT_IN, *(name for name in told_apart if counts[name] >= MIN_UNKNOWN_SHARE * total)}
    out: Counter[str] = Counter()
    for name, count in counts.items():
        out[name if name in kept else OTHER] += count
    return {name: out[name] / total for name in sorted(out)}


def _built_in_name(name: Any) -> str:
    known = _BY_LETTERS.get(_letters(name)) if isinstance(name, str) else None
    if known is None:
        raise ValueError(
            f"unknown strategy {name!r}: {nearest(slug(str(name)), list(BUILT_IN))} "
            "(strategies of your own are a mapping from names to explanations)"
        )
    return BUILT_IN[known][0]


def _own_name(name: Any, what: Any) -> str:
    if not isinstance(name, str) or not slug(name) or "\n" in name:
        raise ValueError(f"strategy {name!r} has no name that a response could give: write one line with letters in it")
    if not isinstance(what, str) or not what.strip():
        raise ValueError(f"strategy {name!r} has no explanation: say in a few words what to do")
    return name
