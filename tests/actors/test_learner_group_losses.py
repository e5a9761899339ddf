"""What a group of ranks makes of one that is slow, in place of Ray with calls that never come back or fail at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from harmonyray.actors import learner_group
from harmonyray.actors.learner_group import LearnerGroup
from harmonyray.actors.placement import Seat
from harmonyray.actors.specs import PartSpec
from harmonyray.errors import LearnerLostError, RankLostError


class Handle:
    """An actor whose every call is under way."""

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *args: object())


class FakeRay:
    """`ray` as the group uses it: a call comes back if `all_come_back`."""

    def __init__(self, all_come_back: bool) -> None:
        self.all_come_back, self.killed = all_come_back, list[Any]()

    def wait(self, refs: list[Any], **limits: Any) -> tuple[list[Any], list[Any]]:
        return (refs[:1], refs[1:]) if self.all_come_back else ([], refs)

    def kill(self, handle: Any) -> None:
        self.killed.append(handle)


def group_of_two(fake: FakeRay, monkeypatch: pytest.MonkeyPatch, options: Any = None) -> LearnerGroup:
    monkeypatch.setattr(learner_group, "ray", fake)
    config = SimpleNamespace(call_timeout_s=0.0)  # who has come back by then is heard all the same
    pool: Any = SimpleNamespace(start=lambda *args: Handle(), config=config, give_up_lost=lambda: None)
    seat = Seat("learner", 0, 0.1, 0.0)
    spec = PartSpec("learners", "deepspeed", options, {})
    return LearnerGroup(pool, [(0, seat), (1, seat)], spec, spec, 1.0)


def test_a_call_that_takes_too_long_loses_the_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(all_come_back=False)
    group = group_of_two(fake, monkeypatch)
    with pytest.raises(LearnerLostError, match=r"did not finish 'update' within runtime.call_timeout_s = 0 s; raise the limit"):
        group.call("update")
    assert fake.killed == group.handles
    with pytest.raises(LearnerLostError, match="did not finish 'update'"):  # and nobody is asked before it is started again
        group.ask("save")


def test_a_death_is_heard_though_the_driver_looks_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ranks have come back, one in vain because the other died, and the time is over."""
    group = group_of_two(FakeRay(all_come_back=True), monkeypatch)
    errors = iter([RankLostError("gloo: timed out"), RayActorError()])
    monkeypatch.setattr(learner_group, "failure", lambda ref: next(errors))
    with pytest.raises(LearnerLostError, match="rank 1 of the learner died during 'update'"):
        group.call("update")


@pytest.mark.parametrize(("options", "now"), [(SimpleNamespace(collective_timeout_s=15.0), " (now 15 s)"), (None, "")])
def test_a_rank_that_waited_in_vain_says_that_the_others_may_be_slow(
    monkeypatch: pytest.MonkeyPatch, options: Any, now: str
) -> None:
    group = group_of_two(FakeRay(all_come_back=True), monkeypatch, options)
    monkeypatch.setattr(learner_group, "failure", lambda ref: RankLostError("gloo: timed out"))
    with pytest.raises(LearnerLostError) as caught:
        group.call("update")
    assert str(caught.value) == (
        "rank 0 of the learner lost the others during 'update' (gloo: timed out); raise learner.collective_timeout_s"
        f"{now} if the ranks are only slow, or look at memory with `harmonyray doctor`"
    )
