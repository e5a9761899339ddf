"""Configurations: layers, overrides, changes of type, and the way back from a written file. What a mistake is answered with is
`test_config_mistakes`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from harmonyray import config as config_module
from harmonyray.config import Config, load_config
from harmonyray.config_files import config_layers
from harmonyray.errors import ConfigError
from harmonyray.listing import describe
from harmonyray.registry import BUILT_IN

CONFIGS = Path(config_module.__file__).parent.parent / "configs"
ALL = {p.relative_to(CONFIGS).with_suffix("").as_posix(): p for p in sorted(CONFIGS.rglob("*.yaml"))}
FILES = {name: path for name, path in ALL.items() if not name.startswith("sweeps/")}  # which tests/sweep looks at
LISTED = describe("configs")
EXPERIMENTS = [name for name in FILES if LISTED[name]["role"] == "experiment"]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


# --- the shipped files ----------------------------------------------------------------------------------------------------


def test_there_are_configs() -> None:
    assert {"quickstart", "paper/self_harmony-qwen3-4b-base-math500"} <= set(EXPERIMENTS)
    assert {"base", "methods/self_harmony", "models/qwen3-4b-base", "problems/math500"} <= set(FILES) - set(EXPERIMENTS)


def test_every_file_is_an_experiment_or_in_a_folder_of_pieces() -> None:
    folders = {"base", "methods", "models", "problems"}
    assert {name.partition("/")[0] for name in FILES if LISTED[name]["role"] == "piece"} == folders
    assert not [name for name in EXPERIMENTS if name.partition("/")[0] in folders]
    assert not [name for name, entry in LISTED.items() if entry["role"] == "broken"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_shipped_config_parses_by_name_and_is_named_after_its_file(name: str) -> None:
    config = load_config(name)
    assert config.name == FILES[name].stem
    assert config == load_config(str(FILES[name])) == load_config(FILES[name].stem)


@pytest.mark.parametrize("name", FILES)
def test_a_shipped_config_says_in_its_first_line_what_it_is(name: str) -> None:
    assert FILES[name].read_text().startswith("# ")
    assert LISTED[name]["summary"]


def leaves(tree: dict[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    out: dict[tuple[str, ...], Any] = {}
    for key, value in tree.items():
        out |= leaves(value, (*prefix, key)) if isinstance(value, dict) else {(*prefix, key): value}
    return out


def repeated(layers: list[dict[str, Any]]) -> list[str]:
    """The dotted keys of the last layer that say what the layers before it say already."""
    merged: dict[str, Any] = {}
    for layer in layers[:-1]:
        merged = config_module._merge(merged, layer)
    inherited = leaves(merged)
    return [".".join(key) for key, value in leaves(layers[-1]).items() if key in inherited and inherited[key] == value]


@pytest.mark.parametrize("name", [name for name in FILES if name != "base"])
def test_a_shipped_config_states_only_what_differs(name: str) -> None:
    layers = config_layers(FILES[name])
    assert len(layers) >= 2
    assert repeated(layers) == []


def test_the_check_for_repeated_keys_finds_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    write(path, "extends: quickstart\nname: mine\nrollout: {problems_per_step: 16}\nseed: 1\n")
    assert repeated(config_layers(path)) == ["rollout.problems_per_step"]


# --- layers ---------------------------------------------------------------------------------------------------------------


def test_a_file_extends_base_without_saying_so(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", "name: mine\nsteps: 3\nmodel: {path: quickstart}\nproblems: {path: a.jsonl}\nseed: 7\n")
    config = load_config(path)
    assert (config.name, config.steps, config.seed) == ("mine", 3, 7)
    base = yaml.safe_load((CONFIGS / "base.yaml").read_text())
    assert config.rollout.max_response_tokens == base["rollout"]["max_response_tokens"]
    assert config.problems.type == base["problems"]["type"] == "file"


@pytest.mark.parametrize("parent", ["parent", "parent.yaml"])
def test_a_chain_of_extends_looks_beside_the_file_first(tmp_path: Path, parent: str) -> None:
    write(tmp_path / "grand.yaml", "extends: quickstart\nname: grand\nsteps: 5\nseed: 1\n")
    write(tmp_path / "parent.yaml", "extends: grand\nname: parent\nseed: 2\n")
    config = load_config(write(tmp_path / "child.yaml", f"extends: {parent}\nname: child\n"))
    assert (config.name, config.seed, config.steps, config.model.path) == ("child", 2, 5, "quickstart")


def test_extends_null_starts_from_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing option 'model'"):
        load_config(write(tmp_path / "bare.yaml", "extends: null\nname: bare\nsteps: 1\n"))


def test_extends_in_a_circle_names_the_files(tmp_path: Path) -> None:
    write(tmp_path / "one.yaml", "extends: two\n")
    write(tmp_path / "two.yaml", "extends: one\n")
    with pytest.raises(ConfigError, match=r"circle: .*one\.yaml -> .*two\.yaml -> .*one\.yaml"):
        load_config(str(tmp_path / "one.yaml"))


def test_extends_of_nothing_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no config named 'quickstrat': did you mean 'quickstart'"):
        load_config(write(tmp_path / "a.yaml", "extends: quickstrat\n"))


def test_interpolation_sees_the_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_NAME", "from-env")
    config = load_config("quickstart", ["seed=5", "steps=${seed}", "name=${oc.env:A_NAME}", "eval.every=${checkpoint.every}"])
    assert (config.steps, config.name, config.eval.every) == (5, "from-env", config.checkpoint.every)


def test_a_type_may_be_interpolated() -> None:
    assert load_config("quickstart", ["advantage.type=${name}", "name=grpo"]).advantage.type == "grpo"


def test_overrides_win_and_later_ones_over_earlier() -> None:
    config = load_config("quickstart", ["steps=2", "learner.lr=1e-4", "steps=3", "views.solver.num_samples=4", "name='a: b'"])
    assert (config.steps, config.learner.options.lr, config.name) == (3, 1e-4, "a: b")
    assert (config.views["solver"].num_samples, config.views["reframer"].num_samples) == (4, 16)


def test_a_frozen_view_needs_no_gpu_for_nccl() -> None:
    gpus = [
        "placement.view.num_gpus=1",
        "placement.learner.num_gpus=1",
        "placement.views.reframer.num_gpus=0",
        "sync.backend=nccl",
    ]
    assert load_config("quickstart", [*gpus, "views.reframer.model=a/b"]).sync.backend == "nccl"
    with pytest.raises(ConfigError, match="a trained view or the learner has num_gpus 0"):
        load_config("quickstart", gpus)


def test_a_group_or_a_place_set_to_null_is_gone() -> None:
    config = load_config("quickstart-views", ["placement.share.all=null"])
    assert config.placement.share == {}
    placed = ["placement.views.reframer.replicas=2", "placement.views.solver.replicas=3"]
    config = load_config("quickstart", [*placed, "placement.views.reframer=null"])
    assert [config.placement.for_group(v).replicas for v in ("solver", "reframer")] == [3, 1]


def test_a_view_set_to_null_is_gone() -> None:
    config = load_config("quickstart", ["views.reframer=null", "method.type=majority_vote"])
    assert list(config.views) == ["solver"]


def test_a_removed_view_can_come_back() -> None:
    config = load_config("quickstart-majority", ["views.reframer={type: reframer, num_samples: 3}"])
    assert {name: v.num_samples for name, v in config.views.items()} == {"solver": 32, "reframer": 3}


# --- a change of type ------------------------------------------------------------------------------------------------------


def test_a_new_type_keeps_common_options_and_leaves_the_others() -> None:
    """`limit` is an option of both sources; a file has columns, the quickstart has none."""
    file = load_config(
        "quickstart", ["problems.limit=3", "problems.type=file", "problems.path=x.jsonl", "problems.id_column=key"]
    )
    assert (file.problems.options.limit, file.problems.options.id_column) == (3, "key")
    tree = yaml.safe_load(file.to_yaml())
    assert tree["problems"]["type"] == "file"


def test_options_of_the_old_type_do_not_stop_the_new_one(tmp_path: Path) -> None:
    write(
        tmp_path / "first.yaml",
        "name: first\nsteps: 1\nmodel: {path: quickstart}\nproblems: {path: x.jsonl, id_column: key, limit: 9}\n"
        "method: {copy_penalty: 0.5, selector: {type: infomax, lam: 1.5, weights: [2, 1]}}\n",
    )
    config = load_config(str(tmp_path / "first.yaml"), ["problems.type=quickstart", "method.selector.type=harmonic"])
    assert config.problems.options.model_dump() == {"limit": 9}
    assert config.method.options.copy_penalty == 0.5
    assert config.method.options.selector.model_dump() == {"type": "harmonic", "weights": [2, 1]}
    majority = load_config(str(tmp_path / "first.yaml"), ["method.type=majority_vote"])
    assert majority.method.options.model_dump() == {}


def test_the_same_type_keeps_its_options(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "extends: quickstart\nname: a\nmethod: {type: self_harmony, copy_penalty: 0.5}\n")
    assert load_config(path, ["method.type=self_harmony"]).method.options.copy_penalty == 0.5


def test_num_samples_survives_a_view_of_another_type() -> None:
    config = load_config("quickstart", ["views.reframer.num_samples=5", "views.reframer.type=solver"])
    assert config.views["reframer"].num_samples == 5
    assert config.views["reframer"].options.template == "REFRAME: {question}\n"


# --- there and back -------------------------------------------------------------------------------------------------------

ROUND_TRIPS: list[tuple[str, list[str]]] = [
    *((name, []) for name in EXPERIMENTS),
    ("quickstart", ["method.selector={type: schedule, first: majority, num_steps: 2, then: {type: bootstrap, of: harmonic}}"]),
    ("quickstart", ["problems={type: file, path: 'a b.jsonl', limit: null}", "tracking.uri=sqlite:///x.db"]),
    ("quickstart", ["placement.views.solver={num_cpus: 2}", "views.solver.chat=true"]),
    ("quickstart", [r"views.solver.template='cost \${x} and \\\\\${y}: {question}'"]),
    ("quickstart", ["views.solver.template='??? {question}'", "name='2024'", "views.solver.choice_instruction=''"]),
]


@pytest.mark.parametrize(("name", "overrides"), ROUND_TRIPS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(ROUND_TRIPS)])
def test_a_written_config_reads_back_as_itself(tmp_path: Path, name: str, overrides: list[str]) -> None:
    config = load_config(name, overrides)
    again = load_config(write(tmp_path / "config.yaml", config.to_yaml()))
    assert again == config
    assert again.to_container() == config.to_container()
    assert list(again.views) == list(config.views)


def test_the_escaped_texts_of_the_round_trip_are_what_they_look_like(tmp_path: Path) -> None:
    config = load_config("quickstart", [r"views.solver.template='cost \${x}: {question}'"])
    assert config.views["solver"].options.template == "cost ${x}: {question}"
    assert "\\${x}" in config.to_yaml()


def test_a_written_config_is_fully_resolved(tmp_path: Path) -> None:
    text = load_config("quickstart", ["seed=3", "steps=${seed}"]).to_yaml()
    assert "${" not in text
    tree = yaml.safe_load(text)
    assert tree["steps"] == 3
    assert tree["learner"]["weight_decay"] == 0.0  # a default that no file states
    assert "options" not in OmegaConf.to_container(OmegaConf.create(tree))["learner"]


def test_a_config_is_frozen() -> None:
    config = load_config("quickstart")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]
    assert isinstance(config, Config)


@pytest.mark.parametrize("kind", sorted(BUILT_IN))
def test_every_kind_of_plug_in_has_a_place_in_the_config(kind: str) -> None:
    assert kind in config_module.PLUGIN_PLACES.values()
