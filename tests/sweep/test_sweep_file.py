"""What a sweep file unfolds to, what is wrong with one, and the shipped ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from harmonyray import build
from harmonyray.config_files import config_names, sweep_names
from harmonyray.errors import ConfigError, PlacementError, UserError
from harmonyray.sweep.file import read_sweep
from harmonyray.sweep.state import SweepState
from harmonyray.sweep.trials import check, unfold

DOCS = Path(__file__).parent.parent.parent / "docs" / "sweeps.md"


def write(folder: Path, **keys: Any) -> str:
    path = folder / "mine.yaml"
    path.write_text(
        yaml.safe_dump({"name": "mine", "base": "quickstart", "overrides": ["runtime.type=in_process"], **keys}, sort_keys=False)
    )
    return str(path)


def refused(folder: Path, **keys: Any) -> str:
    with pytest.raises(UserError) as caught:
        trials = unfold(read_sweep(write(folder, **keys)))
        with build.open_room(trials[0].config) as room:
            check(trials, room)
    return str(caught.value)


def test_cells_times_grid_times_seeds(tmp_path: Path) -> None:
    cells = {"ours": [], "majority": ["method.type=majority_vote", "views.reframer=null"]}
    trials = unfold(read_sweep(write(tmp_path, cells=cells, grid={"learner.lr": [0.1, 0.2], "steps": [3]}, seeds=[4, 7])))
    assert len(trials) == 2 * 2 * 2
    assert [t.seed for t in trials] == [4] * 4 + [7] * 4  # seed by seed
    assert [t.id for t in trials[:4]] == [
        "ours_lr=0.1_steps=3-seed4",
        "majority_lr=0.1_steps=3-seed4",
        "ours_lr=0.2_steps=3-seed4",
        "majority_lr=0.2_steps=3-seed4",
    ]
    last = trials[-1]
    assert (last.cell.label, last.cell.group, last.cell.name) == ("majority", "lr=0.2, steps=3", "majority, lr=0.2, steps=3")
    config = last.config.to_container()
    assert (config["seed"], config["steps"], config["learner"]["lr"], list(config["views"])) == (7, 3, 0.2, ["solver"])
    assert config["method"]["type"] == "majority_vote"


def test_a_grid_alone_compares_its_points_and_neither_compares_seeds(tmp_path: Path) -> None:
    trials = unfold(read_sweep(write(tmp_path, grid={"learner.lr": [0.1, 0.2]}, seeds=[0])))
    assert [(t.cell.label, t.cell.group) for t in trials] == [("lr=0.1", ""), ("lr=0.2", "")]
    assert [t.cell.name for t in unfold(read_sweep(write(tmp_path), ["seeds=[5]"]))] == ["quickstart"]


def test_keys_that_end_alike_are_shown_whole(tmp_path: Path) -> None:
    grid = {"views.solver.num_samples": [8], "views.reframer.num_samples": [4]}
    assert unfold(read_sweep(write(tmp_path, grid=grid, seeds=[0])))[0].cell.label == (
        "views.solver.num_samples=8, views.reframer.num_samples=4"
    )


def test_only_a_method_that_declares_it_reads_gold(tmp_path: Path) -> None:
    cells = {"bound": ["method.type=ground_truth"], "ours": []}
    assert [t.reads_gold for t in unfold(read_sweep(write(tmp_path, cells=cells, seeds=[0])))] == [True, False]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"sedes": [1]}, "mine.yaml': unknown option 'sedes': did you mean 'seeds'"),
        ({"seeds": [1, 1]}, "mine.yaml': bad value for 'seeds': Value error, 1 stands there twice"),
        ({"seeds": []}, "bad value for 'seeds'"),
        ({"grid": {"learner.lr": 0.1}}, "bad value for 'grid.learner.lr'"),
        ({"base": "nothing"}, "sweep 'mine', base nothing + overrides: no config named 'nothing'"),
        ({"cells": {"a": ["method.tpye=x"]}}, "base quickstart + overrides + cells.'a': unknown option 'method.tpye'"),
        ({"grid": {"learner.lr": [0.1, -1]}}, "base quickstart + overrides + grid at lr=-1: bad value for 'learner.lr'"),
        ({"grid": {"steps": [1]}, "cells": {"a": ["steps=2"]}}, "'steps' is set by cell 'a' and by the grid"),
        ({"cells": {"a b": [], "a_b": []}}, "cells 'a b' and 'a_b' would share the directory 'a_b-seed0': rename one"),
        ({"measure": "eval/sovler/greedy"}, "none of its evaluations' measures: did you mean 'eval/solver/greedy'"),
        ({"cells": {"a": [], "b": ["runtime.type=ray"]}}, "some trials have runtime.type ray and others in_process"),
        ({"cells": {"a": ["model.path=./nowhere"]}}, "cell 'a': model directory './nowhere' does not exist"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    assert said in refused(tmp_path, **keys)


def test_problems_without_answers_cannot_be_compared(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"id": "a", "question": "1-1"}\n')
    assert "cell 'quickstart': its problems have no gold answers" in refused(
        tmp_path, overrides=["runtime.type=in_process", "problems.type=file", f"problems.path={tmp_path}/q.jsonl"]
    )


def test_a_trial_that_never_fits_is_refused_before_any_starts(tmp_path: Path, local_ray: None) -> None:
    cells = {"fits": [], "too big": ["placement.learner.num_cpus=4000"]}
    trials = unfold(read_sweep(write(tmp_path, cells=cells, overrides=[])))
    with (
        build.open_room(trials[0].config) as room,
        pytest.raises(PlacementError, match=r"(?s)cell 'too big': there is not enough"),
    ):
        check(trials, room)


def test_a_name_that_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no sweep named 'lamda': did you mean 'lambda'"):
        read_sweep("lamda")
    with pytest.raises(ConfigError, match=r"sweep file '.*none\.yaml' does not exist"):
        read_sweep(str(tmp_path / "none.yaml"))


def test_the_documented_file_unfolds(tmp_path: Path) -> None:
    [text] = re.findall(r"```yaml\n(# mine\.yaml\n.*?)```", DOCS.read_text(), flags=re.S)
    (tmp_path / "mine.yaml").write_text(text)
    trials = unfold(read_sweep(str(tmp_path / "mine.yaml")))
    assert [t.id for t in trials[:2]] == ["harmonic_lr=0.0001-seed0", "majority_lr=0.0001-seed0"]
    assert len(trials) == 12


# --- a directory that is taken up --------------------------------------------------------------------------------


def test_a_resumed_sweep_may_grow_but_not_change(tmp_path: Path) -> None:
    trials = unfold(read_sweep(write(tmp_path, seeds=[0])))
    (tmp_path / "sweep" / "configs").mkdir(parents=True)
    before = SweepState(tmp_path / "sweep", trials)
    before.config_file(trials[0]).write_text(trials[0].config.to_yaml())
    before.trials[trials[0].id].status = "finished"
    before.write()

    grown = unfold(read_sweep(write(tmp_path, seeds=[0, 1])))
    after = SweepState(tmp_path / "sweep", grown)
    after.take_up(grown)
    assert [s.status for s in after.trials.values()] == ["finished", "waiting"]

    changed = unfold(read_sweep(write(tmp_path, seeds=[0], overrides=["runtime.type=in_process", "steps=3"])))
    with pytest.raises(ConfigError, match=r"trial 'quickstart-seed0' was configured otherwise \(steps: 40 -> 3\)"):
        SweepState(tmp_path / "sweep", changed).take_up(changed)
    gone = unfold(read_sweep(write(tmp_path, seeds=[1])))
    with pytest.raises(ConfigError, match="has a trial 'quickstart-seed0' that the sweep file no longer asks for"):
        SweepState(tmp_path / "sweep", gone).take_up(gone)


def test_a_directory_with_something_else_in_it(tmp_path: Path) -> None:
    state = SweepState(tmp_path, [])
    with pytest.raises(ConfigError, match=r"is not a sweep's directory \(it has no trials\.json\)"):
        state.check_there(resume=True)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="already exists and is not empty"):
        state.check_there(resume=False)


# --- the shipped ones ----------------------------------------------------------------------------------------------------


def test_the_sweeps_are_there_and_are_no_configs() -> None:
    assert {"selectors", "lambda", "views", "samples", "gating", "methods", "regimes"} <= set(sweep_names())
    assert not [name for name in config_names() if name.startswith("sweeps")]


@pytest.mark.parametrize("name", sorted(sweep_names()))
def test_a_shipped_sweep_can_be_run(name: str) -> None:
    sweep = read_sweep(name)
    assert (sweep.name, sweep.seeds, sweep_names()[name].read_text()[:2]) == (name, [0, 1, 2], "# ")
    trials = unfold(sweep)
    with build.open_room(trials[0].config) as room:
        check(trials, room)
    one_of_each = [t.config.model_copy(update={"name": "same"}).to_yaml() for t in trials if t.seed == 0]
    assert len(set(one_of_each)) == len(one_of_each) > 1  # no two cells are the same
