"""What a configuration may ask of a learner of several ranks."""

from __future__ import annotations

from typing import Any

import pytest

from harmonyray.cli import main


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["learner.num_ranks=2"], "the torch learner is one process: set learner.type=deepspeed"),
        (
            ["learner.type=deepspeed", "learner.num_ranks=2", "placement.learner.num_gpus=1"],
            "ranks need whole GPUs, the same number each: set num_gpus to 2",
        ),
        (["learner.max_skipped_updates=0"], "learner.max_skipped_updates"),
        (
            ["learner.type=deepspeed", "learner.num_ranks=2", "runtime.type=in_process"],
            "'learner.num_ranks' is 2, and 'runtime.type'",
        ),
        (
            ["learner.type=deepspeed", "learner.num_ranks=2", "runtime.call_timeout_s=600"],
            "'learner.collective_timeout_s' is 600, and 'runtime.call_timeout_s' 600",
        ),
    ],
)
def test_what_cannot_be_run(overrides: list[str], message: str, capsys: Any) -> None:
    assert main(["train", "quickstart", *overrides, "--json"]) == 2
    assert message in capsys.readouterr().err


def test_ranks_are_seats(capsys: Any) -> None:
    """Which share what the learner gets."""
    overrides = ["learner.type=deepspeed", "learner.num_ranks=2"]
    main(["plan", "quickstart", *overrides])
    seats = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  learner")]
    assert seats == [["learner", "0", "0.25", "0"], ["learner", "1", "0.25", "0"]]
