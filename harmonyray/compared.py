"""Whether all that is trained is compared with something: the advantage of what stands alone is its bare reward, and with rewards
of 0 and 1 nothing would ever be discouraged."""

from __future__ import annotations

from collections.abc import Sequence

from harmonyray.algos.majority_vote import MajorityVote
from harmonyray.config import Config
from harmonyray.errors import ConfigError
from harmonyray.protocols import Ask, StagedView


def check_compared(config: Config, asks: Sequence[Ask]) -> None:
    """Raises ConfigError for samples or drafts that cannot be trained. `asks` [V]."""
    trained = [ask for ask in asks if ask.trained]
    chosen = config.method.options
    num_trained = chosen.num_trained if isinstance(chosen, MajorityVote.Options) else None
    if num_trained == 1 and (len(trained) == 1 or getattr(config.advantage.options, "group", None) == "view"):
        raise ConfigError(
            "'method.num_trained' is 1: that is one reward a problem in each view, which has no other to be compared with; set "
            "it to 2 or more, or leave it null"
        )
    for ask in trained:
        if isinstance(ask.view, StagedView):
            _check_drafts(ask, ask.view, num_trained)


def _check_drafts(ask: Ask, view: StagedView, num_trained: int | None) -> None:
    where, each = f"'views.{view.name}'", view.samples_per_draft
    if ask.num_first < 2:
        raise ConfigError(
            f"{where} asks for {ask.num_samples} samples, {each} of each draft: that is one draft a problem, which has no "
            f"other to be compared with; set num_samples above {each}, or samples_per_draft lower"
        )
    if num_trained is not None and num_trained <= each:  # the first ones, which are all of the first draft
        raise ConfigError(
            f"'method.num_trained' is {num_trained}, and {where} has {each} samples of each draft: that is one draft a problem "
            f"with a reward, which has no other to be compared with; set num_trained to {each + 1} or more, or samples_per_draft "
            "lower"
        )
    if ask.draft_sampling.top_p < 1:
        raise ConfigError(f"{where} samples its drafts with top_p below 1, which would bias their update: leave it at 1")
