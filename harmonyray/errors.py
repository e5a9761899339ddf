"""One exception per boundary. Every message says what failed, what was got, what was expected and how to fix it.

`UserError` and its children are the user's to repair (exit code 2); `RunError` and its children are failures of a run
(exit code 1). Nothing here derives from ValueError, so pydantic lets these pass through its validators unchanged.
"""

from __future__ import annotations


class HarmonyrayError(Exception):
    """Anything this package raises on purpose."""

    exit_code = 1


class UserError(HarmonyrayError):
    """Something the user can repair: a file, an option, a machine that is too small."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration that cannot be run: unknown key, unknown type, impossible combination."""


class ProblemError(UserError):
    """A problem set that cannot be used: missing, unreadable, empty, duplicate ids."""


class ModelError(UserError):
    """A model directory that cannot be loaded: missing, no tokenizer, wrong architecture."""


class PlacementError(UserError):
    """The cluster cannot hold the actors that were asked for."""


class TrackingError(UserError):
    """An MLflow store that cannot be used: unknown scheme, no permission, a damaged database."""


class ServerAwayError(HarmonyrayError):
    """A tracking server that does not answer now, and may later."""


class ReportError(UserError):
    """Nothing that a report could be made of: no run there, or one whose records cannot be read."""


class RunError(HarmonyrayError):
    """A run that cannot go on; its directory stays usable."""


class StaleWeightsError(RunError):
    """An engine was asked to generate with a policy version that it does not hold."""


class WeightSyncError(RunError):
    """A weight broadcast that did not arrive."""


class AlteredWeightsError(RunError):
    """An engine that holds other weights, or another policy version, than the learner sent."""


class BrokenEngineError(RunError):
    """An engine that failed in the middle of generating, and has to be started again."""


class RolloutsLostError(RunError):
    """Rollouts that are gone with the node that kept them."""


class CheckpointError(RunError):
    """A checkpoint that cannot be written (a full disk), or that is missing, incomplete or altered."""


class LearnerLostError(RunError):
    """The learner's process, or one of its ranks, is gone or hangs; what it had learned since the last checkpoint is lost."""


class RankLostError(RunError):
    """A rank of the learner that waited for another in vain."""


class NotFiniteError(RunError):
    """Too many updates in a row whose gradients were not finite; the learner is as it was before them."""


class CollapseError(RunError):
    """A run that the collapse guard has paused."""


class GraderError(RunError):
    """The answer workers cannot be kept alive."""


def first_line(error: BaseException) -> str:
    """An error's message cut to its first line, for use within another; its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def brief(error: BaseException) -> str:
    """An error in one line of at most some 300 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
