"""Configurations: layers, overrides, changes of type, a table of mistakes with the message each must give, and the way back
from a written file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from harmonyray import config as config_module
from harmonyray.config import Config, load_config
from harmonyray.errors import ConfigError
from harmonyray.registry import BUILT_IN

CONFIGS = Path(config_module.__file__).parent.parent / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


# --- the shipped files ----------------------------------------------------------------------------------------------------


def test_there_are_configs() -> None:
    assert {"base", "quickstart"} <= {p.stem for p in FILES}


@pytest.mark.parametrize("path", [p for p in FILES if p.stem != "base"], ids=lambda p: p.stem)
def test_a_shipped_config_parses_by_name_and_is_named_after_its_file(path: Path) -> None:
    config = load_config(path.stem)
    assert config.name == path.stem
    assert config == load_config(str(path))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_shipped_config_says_in_its_first_line_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# ")


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


@pytest.mark.parametrize("path", [p for p in FILES if p.stem != "base"], ids=lambda p: p.stem)
def test_a_shipped_config_states_only_what_differs(path: Path) -> None:
    layers = config_module._layers(path)
    assert len(layers) >= 2
    assert repeated(layers) == []


def test_the_check_for_repeated_keys_finds_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    write(path, "extends: quickstart\nname: mine\nrollout: {problems_per_step: 16}\nseed: 1\n")
    assert repeated(config_module._layers(path)) == ["rollout.problems_per_step"]


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
    assert load_config("quickstart", ["name=majority_vote", "method.type=${name}"]).method.type == "majority_vote"


def test_overrides_win_and_later_ones_over_earlier() -> None:
    config = load_config("quickstart", ["steps=2", "learner.lr=1e-4", "steps=3", "views.solver.num_samples=4", "name='a: b'"])
    assert (config.steps, config.learner.options.lr, config.name) == (3, 1e-4, "a: b")
    assert (config.views["solver"].num_samples, config.views["reframer"].num_samples) == (4, 16)


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
        "extends: quickstart\nname: first\nproblems: {type: file, path: x.jsonl, id_column: key, limit: 9}\n"
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


# --- mistakes -------------------------------------------------------------------------------------------------------------

MISTAKES = [
    # unknown keys, with the nearest valid one
    ("step=3", "unknown option 'step': did you mean 'steps'"),
    ("learner.lrr=1", "unknown option 'learner.lrr': did you mean 'lr'"),
    ("rollout.enigne.type=hf", "unknown option 'rollout.enigne': did you mean 'engine'"),
    ("method.typ=majority_vote", "unknown option 'method.typ': did you mean 'type'"),
    ("views.solver.num_samlpes=3", "unknown option 'views.solver.num_samlpes': did you mean 'num_samples'"),
    ("views.solver.tmplate=3", "unknown option 'views.solver.tmplate': did you mean 'template'"),
    ("placement.view.replica=2", "unknown option 'placement.view.replica': did you mean 'replicas'"),
    ("placement.views.solver.replica=2", "unknown option 'placement.views.solver.replica': did you mean 'replicas'"),
    ("method.selector={type: infomax, lamb: 1}", "lamb': did you mean 'lam'"),
    ("runtime.kind=ray", "unknown option 'runtime.kind': expected one of: call_timeout_s, max_restarts"),
    # unknown types
    ("method.type=self_harmny", "unknown type 'self_harmny' among methods: did you mean 'self_harmony'"),
    ("method.selector=harmnic", "unknown type 'harmnic' among selectors: did you mean 'harmonic'"),
    ("problems.type=quickstrat", "unknown type 'quickstrat' among problems: did you mean 'quickstart'"),
    ("rollout.engine.type=zzz", "unknown type 'zzz' among engines: expected one of: hf"),
    ("views.solver.type=:X", "':X' is not of the form 'package.module:Class'"),
    ("views.solver.type=.x:Y", "'.x:Y' is not of the form 'package.module:Class'"),
    ("views.solver.type='json:'", "'json:' is not of the form 'package.module:Class'"),
    # missing and bad values
    ("problems={type: file}", "missing option 'problems.path'"),
    ("method.selector={smoothing: 1}", "missing option 'method.selector.type'"),
    ("steps=abc", "bad value for 'steps'.*got 'abc'"),
    ("steps=2.5", "bad value for 'steps'.*got 2.5"),
    ("steps=0", "bad value for 'steps'.*greater than 0"),
    ("seed=-1", "bad value for 'seed'"),
    ("learner.lr=-1", "bad value for 'learner.lr'.*greater than 0.*got -1"),
    ("learner.lr=inf", "bad value for 'learner.lr'.*finite"),
    ("rollout.temperature=inf", "bad value for 'rollout.temperature'.*finite"),
    ("rollout.temperature=nan", "bad value for 'rollout.temperature'"),
    ("eval.top_p=1.1", "bad value for 'eval.top_p'"),
    ("runtime.type=inprocess", "bad value for 'runtime.type'.*'ray' or 'in_process'"),
    ("sync.backend=ncl", "bad value for 'sync.backend'.*'auto', 'gloo' or 'nccl'"),
    ("name=a/b", "bad value for 'name'"),
    ("name=null", "bad value for 'name'"),
    ("views.solver.template=hello", r"bad value for 'views.solver.template'.*never mentions \{question\}"),
    ("views.solver.num_samples=0", "bad value for 'views.solver.num_samples'.*greater than 0"),
    # a value where a mapping belongs, or the reverse
    ("steps.x=3", "bad value for 'steps'"),
    ("rollout=3", "bad value for 'rollout'"),
    ("method=majority_vote", "'method' must be a mapping with a 'type', got 'majority_vote'"),
    ("views=3", "'views' must be a mapping of view names.*got 3"),
    ("views.solver=3", "'views.solver' must be a mapping with a 'type', got 3"),
    ("views=[solver]", "a list stands where a mapping of keys is expected"),
    ("rollout=[1]", "a list stands where a mapping of keys is expected"),
    # impossible combinations
    ("views=null", "'views' is empty"),
    ("views.reframer=null", "self_harmony compares views and needs at least 2, got 1"),
    ("views.a b={type: solver}", "'views.a b': a view's name goes into metric names"),
    ("placement.views.solvr.num_cpus=2", "'placement.views.solvr' places a view that does not exist: did you mean 'solver'"),
    ("sync.backend=nccl", "'sync.backend' is nccl, but a view or the learner has num_gpus 0"),
    ("runtime.type=in_process placement.view.replicas=2", "in_process, which has one engine per view"),
    ("method.selector={type: harmonic, weights: [1, 2, 3]}", "'weights' has 3 entries but there are 2 views"),
    ("method.selector={type: harmonic, weights: [0, 0]}", "weights must be finite numbers, none negative and not all zero"),
    # overrides and interpolations that cannot be read
    ("learner.lr", "'learner.lr' is not of the form key=value"),
    ("=3", "'=3' is not of the form key=value"),
    ("steps={a:", "cannot be read"),
    ("seed=${nope}", "seed: Interpolation key 'nope' not found"),
    ("seed=${oc.env:HARMONYRAY_NOT_SET}", "HARMONYRAY_NOT_SET"),
]


@pytest.mark.parametrize(("override", "message"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_named_with_the_way_out(override: str, message: str) -> None:
    overrides = override.split(" placement.") if " placement." in override else [override]
    overrides = [overrides[0], *(f"placement.{item}" for item in overrides[1:])]
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load_config("quickstart", overrides)


def test_several_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", ["step=3", "eval.evry=1", "seed=x"])
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "bad value for 'seed'",
        "unknown option 'eval.evry'",
        "unknown option 'step'",
    ]


BROKEN_FILES = [
    ("a: [1", "cannot be read"),
    ("a: 1\na: 2", "cannot be read"),
    ("- 1\n- 2", "must hold a mapping of keys, got list"),
    ("3", "cannot be read"),
    ("\x00", "cannot be read"),
    ("", "missing option 'name'"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN_FILES)
def test_a_file_that_is_no_config(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "broken.yaml", text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert "broken.yaml" in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(str(tmp_path / "bytes.yaml"))


def test_a_missing_file_and_a_missing_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match=r"no config named 'quikstart': did you mean 'quickstart'.*path of a \.yaml file"):
        load_config("quikstart")


def test_base_alone_names_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="missing option 'name'"):
        load_config("base")


# --- there and back -------------------------------------------------------------------------------------------------------

ROUND_TRIPS: list[tuple[str, list[str]]] = [
    *((p.stem, []) for p in FILES if p.stem != "base"),
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
