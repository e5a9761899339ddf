"""docs/placement.md: its configurations load, and `harmonyray plan` prints what stands there on the machines it speaks of."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import pytest

from harmonyray.actors.placement import Node
from harmonyray.cli import main
from harmonyray.config_sections import PlacementConfig

TEXT = (Path(__file__).parents[2] / "docs" / "placement.md").read_text()
CONFIGS = {name: text for text, name in re.findall(r"```yaml\n(# (\S+)\n.*?)```", TEXT, flags=re.S)}
PLANS = re.findall(r"```\n\$ harmonyray plan (\S+)\n(.*?)```", TEXT, flags=re.S)


def here(num_cpus: float, num_gpus: float) -> list[Node]:
    return [Node("this machine", num_cpus, num_gpus)]


CLUSTER = [
    Node("10.0.0.1", 2, 0, {"big": 1}),
    Node("10.0.0.2", 4, 0, {"rack_b": 1}, in_use={"CPU": 3.5}),
    Node("10.0.0.3", 4, 0, {"rack_b": 1}),
]
MACHINES = [  # of each plan in turn
    ("one-cpu.yaml", here(1, 0), 0),
    ("own-gpus.yaml", here(32, 8), 0),
    ("shared-gpus.yaml", here(8, 4), 0),
    ("colocated.yaml", here(8, 1), 0),
    ("colocated.yaml", here(2, 0), 2),
    ("spread.yaml", CLUSTER, 0),
    ("pinned.yaml", CLUSTER, 0),
]


def test_the_machines_are_those_of_the_plans() -> None:
    assert [name for name, _, _ in MACHINES] == [name for name, _ in PLANS]
    assert set(CONFIGS) == {name for name, _ in PLANS}


@pytest.mark.parametrize("i", range(len(MACHINES)))
def test_a_plan_is_what_the_command_prints(
    i: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, have, code = MACHINES[i]
    (tmp_path / name).write_text(CONFIGS[name])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("harmonyray.actors.planning.this_machine", lambda: have[0])
    if len(have) > 1:
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
        monkeypatch.setattr("harmonyray.actors.planning.cluster", lambda runtime: nullcontext())
        monkeypatch.setattr("harmonyray.actors.planning.nodes", lambda: have)
    assert main(["plan", str(tmp_path / name)]) == code
    assert capsys.readouterr().out == PLANS[i][1]


def test_every_option_is_in_the_table() -> None:
    rows = "\n".join(line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `"))
    for option in PlacementConfig.model_fields:
        assert f"`{option}" in rows, option
