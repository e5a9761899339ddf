"""What a training is checked for before anything is started, but for its places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harmonyray import build
from harmonyray.compared import check_compared
from harmonyray.config import Config
from harmonyray.errors import ConfigError
from harmonyray.types import GoldAnswer, Problem

Gold = Mapping[str, GoldAnswer]


def load_checked(config: Config) -> tuple[list[Problem], Gold]:
    """The problems and gold answers of a training that has what it needs. Raises UserError if it lacks something."""
    problems, gold = build.load_problems(config)
    check_gold(config, problems, gold)
    check_best(config, problems, gold)
    build.check_models(config)
    build.check_installed(config)
    check_compared(config, build.make_asks(config, build.make_views(config)))
    return problems, gold


def check_gold(config: Config, problems: Sequence[Problem], gold: Gold) -> None:
    """Raises ConfigError if the method needs gold answers that are not there."""
    missing = [p.id for p in problems if p.id not in gold]
    if missing and build.uses_gold(config):
        raise ConfigError(
            f"'method.type' {config.method.type} needs a gold answer for every problem; {len(missing)} of {len(problems)} have "
            f"none, {missing[0]!r} for one: add the answers to the problem source, or use a label-free method"
        )


def check_best(config: Config, problems: Sequence[Problem], gold: Gold) -> None:
    """Raises ConfigError if checkpoints are to be chosen by answers that nobody knows."""
    if config.checkpoint.best is not None and not any(p.id in gold for p in problems):
        raise ConfigError(
            f"'checkpoint.best' is {config.checkpoint.best}, and there are no gold answers to evaluate that with: add answers to "
            "the problem source, or leave it null"
        )
